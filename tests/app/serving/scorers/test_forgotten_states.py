"""Test that every loaded release drops the states of a forgotten user's history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DatabaseUnavailableError, GoneError
from app.serving.recommend.service import RecommendService
from app.serving.replica.release_loader import ReleaseLoader
from app.serving.replica.replica import Replica
from app.serving.retrieval.first_stage import FirstStage
from app.serving.scorers.torch_scorer import ScoringPolicy, TorchBackend, TorchScorer
from tests.support.gateway_world import World, ask, serving
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.domain.releases import Release
    from app.settings import Settings
    from models.checkpoints.manifest import Manifest


class RecordingScorer(TorchScorer):
    """A scorer that records the calls of `forget`."""

    def __init__(self, scorer: TorchScorer, policy: ScoringPolicy) -> None:
        super().__init__(scorer.recommender, policy)
        self.forgotten: list[str | None] = []

    def forget(self, user_id: str | None) -> None:
        self.forgotten.append(user_id)
        super().forget(user_id)


class RecordingBackend(TorchBackend):
    """A backend that loads releases into recording scorers."""

    def __init__(self, settings: Settings, loaded: dict[str, RecordingScorer]) -> None:
        super().__init__(settings)
        self._loaded = loaded

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        scorer = super().load(release, directory, manifest)
        self._loaded[release.id] = RecordingScorer(scorer, self._policy)
        return self._loaded[release.id]


@pytest.fixture
def scorers() -> dict[str, RecordingScorer]:
    """The scorers of all loaded releases, by release id."""
    return {}


@pytest.fixture
def replica(world: World, scorers: dict[str, RecordingScorer]) -> Iterator[Replica]:
    """A replica without running threads that serves one release and has prepared another."""
    first_stage = FirstStage(world.uow, world.pseudonyms)
    first_stage.rebuild()
    loader = ReleaseLoader(world.artifacts, RecordingBackend(world.settings, scorers))
    replica = Replica(world.settings, world.uow, loader, first_stage, world.pseudonyms)
    lease, first = world.publish(1)
    world.flip(lease, first)
    wait_until(
        lambda: (replica.tick(), replica.live.release_id == first)[1], "the first is not live"
    )
    _, second = world.publish(2)
    wait_until(
        lambda: (replica.tick(), replica._release_switch.state().prepared == second)[1],
        "the second is not prepared",
    )
    yield replica
    replica.stop()


@pytest.fixture
def service(world: World, replica: Replica) -> Iterator[RecommendService]:
    service = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    yield service
    service.close()


def forgotten(scorers: dict[str, RecordingScorer]) -> list[str | None]:
    """Return the `forget` calls of the live and the prepared release, which must be equal."""
    first, second = (scorer.forgotten for scorer in scorers.values())
    assert first == second
    return first


def kept(scorers: dict[str, RecordingScorer]) -> list[str]:
    """Return the user ids of all cached states."""
    return [user for scorer in scorers.values() for user in scorer._cache._prefixes]


def test_following_the_log_reaches_every_release(
    world: World, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    world.forget("u3")
    replica.first_stage.follow()

    assert forgotten(scorers) == ["u3"]


def test_a_query_that_applies_the_log_reaches_every_release(
    world: World, service: RecommendService, scorers: dict[str, RecordingScorer]
) -> None:
    world.forget("u3")
    service.answer(ask("u1", 5))

    assert forgotten(scorers) == ["u3"]


def test_a_forgotten_item_drops_all_states(
    world: World, service: RecommendService, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    """The log does not name the users who rated the item: there may be thousands of them."""
    service.answer(ask("u1", 5))
    world.forget(item_id="i3")
    replica.first_stage.follow()

    assert forgotten(scorers) == [None]
    assert kept(scorers) == []


def test_a_log_entry_without_user_id_drops_all_states(
    world: World, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    world.forget("u3")
    with world.uow() as uow:  # The deletion completes before this replica reads the log.
        uow.state.forget_user_in_log("u3")
        uow.people.delete_user("u3")
        uow.state.bump("completed")
    replica.first_stage.follow()

    assert forgotten(scorers) == [None]


def test_a_freed_release_is_not_reached_any_more(
    world: World, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    with world.uow() as uow:
        uow.releases.set_target(None)
    wait_until(
        lambda: (replica.tick(), replica._release_switch.state().prepared is None)[1],
        "still prepared",
    )
    live, freed = scorers.values()
    calls_before = len(freed.forgotten)
    world.forget("u3")
    replica.first_stage.follow()

    assert live.forgotten == ["u3"]
    assert len(freed.forgotten) == calls_before


def test_a_user_forgotten_while_an_answer_is_computed_leaves_no_states(
    world: World, service: RecommendService, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    """The log is followed before the scorer caches the states, so the recheck must drop them."""

    def forget_and_follow() -> None:
        world.forget("u1")
        replica.first_stage.follow()
        for scorer in scorers.values():
            scorer.forgotten.clear()

    with pytest.raises(GoneError):
        service.answer(ask("u1", 5), before_recheck=forget_and_follow)

    assert forgotten(scorers) == ["u1"]


def test_a_failed_recheck_drops_the_states(
    service: RecommendService, scorers: dict[str, RecordingScorer]
) -> None:
    def lose_database() -> None:
        raise DatabaseUnavailableError

    with pytest.raises(DatabaseUnavailableError):
        service.answer(ask("u1", 5), before_recheck=lose_database)

    assert forgotten(scorers) == ["u1"]


def test_a_sent_answer_keeps_the_states(
    service: RecommendService, scorers: dict[str, RecordingScorer]
) -> None:
    service.answer(ask("u1", 5))

    assert forgotten(scorers) == []
    assert kept(scorers) == ["u1"]


def test_following_a_deletion_drops_the_cached_states_of_the_user(
    world: World, service: RecommendService, replica: Replica, scorers: dict[str, RecordingScorer]
) -> None:
    for user in ("u1", "u2"):
        service.answer(ask(user, 5))
    assert kept(scorers) == ["u1", "u2"]

    world.forget("u1")
    replica.first_stage.follow()

    assert kept(scorers) == ["u2"]


def test_an_accepted_deletion_is_followed_before_the_next_poll(world: World) -> None:
    """The poll interval is ten minutes here, so only the request can have caused the update."""
    app = world.app(poll_seconds=600.0, replica_ttl=3600.0)
    first_stage = app.state.gateway.first_stage

    async def run() -> None:
        async with serving(app) as client:
            await asyncio.to_thread(
                wait_until, lambda: first_stage.ready, "the statistics were not built"
            )
            before = first_stage.version
            response = await client.post("/forget", json={"user_id": "u3"})
            assert response.status_code == 202
            await asyncio.to_thread(
                wait_until, lambda: first_stage.version > before, "the log was not followed"
            )

    asyncio.run(run())
