"""Whoever is forgotten: every release in memory is told to drop what it made of the history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DatabaseUnavailableError, GoneError
from app.serving.recommend.service import RecommendService
from app.serving.replica.release_loader import ReleaseLoader
from app.serving.replica.replica import Replica
from app.serving.retrieval.first_stage import FirstStage
from app.serving.scorers.torch_scorer import ScoringPolicy, TorchScorer, TorchBackend
from tests.support.gateway_world import USERS, World, ask, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.domain.releases import Release
    from app.settings import Settings
    from models.checkpoints.manifest import Manifest


class Recording(TorchScorer):
    """A scorer that writes down whom it was told to forget."""

    def __init__(self, scorer: TorchScorer, policy: ScoringPolicy) -> None:
        super().__init__(scorer.recommender, policy)
        self.told: list[str | None] = []

    def forget(self, user_id: str | None) -> None:
        self.told.append(user_id)
        super().forget(user_id)


class RecordingScorers(TorchBackend):
    """Loads releases as ever, and notes who scores them."""

    def __init__(self, settings: Settings, loaded: dict[str, Recording]) -> None:
        super().__init__(settings)
        self._loaded = loaded

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        scorer = super().load(release, directory, manifest)
        self._loaded[release.id] = Recording(scorer, self._policy)
        return self._loaded[release.id]


@pytest.fixture
def scorers() -> dict[str, Recording]:
    """The scorers of all releases that were loaded."""
    return {}


@pytest.fixture
def replica(world: World, scorers: dict[str, Recording]) -> Iterator[Replica]:
    """A replica whose threads do not run; it answers from one release and has prepared another."""
    candidates = FirstStage(world.uow, world.pseudonyms)
    candidates.rebuild()
    loader = ReleaseLoader(world.artifacts, RecordingScorers(world.settings, scorers))
    made = Replica(world.settings, world.uow, loader, candidates, world.pseudonyms)
    lease, first = world.publish(1)
    world.flip(lease, first)
    wait_until(lambda: (made.tick(), made.live.release_id == first)[1], "the first is not live")
    _, second = world.publish(2)
    wait_until(
        lambda: (made.tick(), made._release_switch.state().prepared == second)[1],
        "none is prepared",
    )
    yield made
    made.stop()


@pytest.fixture
def service(world: World, replica: Replica) -> Iterator[RecommendService]:
    made = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    yield made
    made.close()


def told(scorers: dict[str, Recording]) -> list[str | None]:
    """Return what the live and the prepared release were told, which must be the same."""
    first, second = (scorer.told for scorer in scorers.values())
    assert first == second
    return first


def kept(scorers: dict[str, Recording]) -> list[str]:
    """Return whose states any release holds."""
    return [user for scorer in scorers.values() for user in scorer._cache._kept]


def test_following_the_log_tells_every_release(
    world: World, replica: Replica, scorers: dict[str, Recording]
) -> None:
    world.forget("u3")
    replica.first_stage.follow()

    assert told(scorers) == ["u3"]


def test_any_request_tells_them_too(
    world: World, service: RecommendService, scorers: dict[str, Recording]
) -> None:
    world.forget("u3")
    service.answer(ask("u1", 5))

    assert told(scorers) == ["u3"]


def test_a_forgotten_item_concerns_all_who_rated_it(
    world: World, replica: Replica, scorers: dict[str, Recording]
) -> None:
    with world.uow(write=False) as uow:
        raters = sorted(
            user for user in USERS if any(one.item_id == "i3" for one in uow.people.history(user))
        )
    world.forget(item_id="i3")
    replica.first_stage.follow()

    assert raters
    assert told(scorers) == raters


def test_where_the_log_names_nobody_everything_goes(
    world: World, replica: Replica, scorers: dict[str, Recording]
) -> None:
    world.forget("u3")
    with world.uow() as uow:  # The deletion completes before this replica has looked.
        uow.state.forget_user_in_log("u3")
        uow.people.delete_user("u3")
        uow.state.bump("completed")
    replica.first_stage.follow()

    assert told(scorers) == [None]


def test_a_release_that_is_freed_is_told_nothing_more(
    world: World, replica: Replica, scorers: dict[str, Recording]
) -> None:
    with world.uow() as uow:
        uow.releases.set_target(None)
    wait_until(
        lambda: (replica.tick(), replica._release_switch.state().prepared is None)[1],
        "still prepared",
    )
    live, gone = scorers.values()
    told_before = len(gone.told)
    world.forget("u3")
    replica.first_stage.follow()

    assert live.told == ["u3"]
    assert len(gone.told) == told_before


def test_a_person_forgotten_while_an_answer_is_made_leaves_nothing(
    world: World, service: RecommendService, replica: Replica, scorers: dict[str, Recording]
) -> None:
    """The log is followed before the scoring keeps anything; so the last look has to tell."""

    def forget_and_follow() -> None:
        world.forget("u1")
        replica.first_stage.follow()
        for scorer in scorers.values():
            scorer.told.clear()

    with pytest.raises(GoneError):
        service.answer(ask("u1", 5), before_recheck=forget_and_follow)

    assert told(scorers) == ["u1"]


def test_without_a_last_look_nothing_is_kept(
    service: RecommendService, scorers: dict[str, Recording]
) -> None:
    def cut_off() -> None:
        raise DatabaseUnavailableError

    with pytest.raises(DatabaseUnavailableError):
        service.answer(ask("u1", 5), before_recheck=cut_off)

    assert told(scorers) == ["u1"]


def test_an_answer_that_is_sent_keeps_what_was_made(
    service: RecommendService, scorers: dict[str, Recording]
) -> None:
    service.answer(ask("u1", 5))

    assert told(scorers) == []
    assert kept(scorers) == ["u1"]


def test_a_state_that_was_kept_is_gone_with_the_person(
    world: World, service: RecommendService, replica: Replica, scorers: dict[str, Recording]
) -> None:
    for user in ("u1", "u2"):
        service.answer(ask(user, 5))
    assert kept(scorers) == ["u1", "u2"]

    world.forget("u1")
    replica.first_stage.follow()

    assert kept(scorers) == ["u2"]


def test_an_accepted_deletion_is_followed_without_waiting_for_the_next_look(world: World) -> None:
    """The log is looked at every ten minutes here: only the call itself can have woken it."""
    app = world.app(poll_seconds=600.0, replica_ttl=3600.0)
    candidates = app.state.gateway.first_stage

    async def whole() -> None:
        async with serving(app) as client:
            await asyncio.to_thread(wait_until, lambda: candidates.ready, "nothing was counted")
            before = candidates.version
            asked = await client.post("/forget", json={"user_id": "u3"})
            assert asked.status_code == 202
            await asyncio.to_thread(
                wait_until, lambda: candidates.version > before, "the log was not followed"
            )

    asyncio.run(whole())
