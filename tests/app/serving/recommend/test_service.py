"""One answer: one release, nothing forgotten, nothing after the right to answer has ended."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import (
    GoneError,
    NoReleaseError,
    OverloadedError,
    ReplicaNotReadyError,
    UnavailableError,
    UnknownUserError,
)
from app.serving.recommend.service import RecommendService
from tests.support.gateway_world import ITEMS, USERS, World, ask, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.recommendations import Recommendation
    from app.serving.replica.replica import Replica


def check_scores(world: World, answer: Recommendation) -> None:
    """Every score must be what the named release says, and the order theirs."""
    ids = [item.item_id for item in answer.items]
    expected = world.scores(answer.release, answer.user_id, ids)
    assert [item.score for item in answer.items] == pytest.approx(expected, abs=1e-5)
    assert expected == sorted(expected, reverse=True)
    assert [item.rank for item in answer.items] == list(range(1, len(ids) + 1))


def test_an_answer_holds_the_named_releases_scores_and_nothing_seen(
    world: World, service: RecommendService
) -> None:
    answer = service.answer(ask("u1", 5))
    check_scores(world, answer)
    with world.uow(write=False) as uow:
        seen = {one.item_id for one in uow.people.history("u1")}
    assert len(answer.items) == 5
    assert not seen & {item.item_id for item in answer.items}


def test_seen_items_come_back_when_asked_for(service: RecommendService) -> None:
    answer = service.answer(ask("u1", ITEMS, exclude_seen=False))
    assert len(answer.items) == ITEMS


def test_an_unknown_user_is_unknown(service: RecommendService) -> None:
    with pytest.raises(UnknownUserError):
        service.answer(ask("nobody", 5))


def test_every_answer_during_swaps_under_load_is_of_one_release(
    world: World, service: RecommendService
) -> None:
    stop = threading.Event()

    def load(number: int) -> list[Recommendation]:
        answers = []
        while not stop.is_set():
            answers.append(service.answer(ask(USERS[number], 10)))
        return answers

    with ThreadPoolExecutor(3) as clients:
        running = [clients.submit(load, number) for number in range(3)]
        try:
            names = [world.roll_out(seed) for seed in (2, 3, 4)]
        finally:
            stop.set()
        # A failed answer raises here: none may fail.
        answers = [answer for each in running for answer in each.result()]
    for answer in answers:
        check_scores(world, answer)
    assert {answer.release for answer in answers} >= set(names[:2])


def test_a_person_forgotten_between_read_and_send_is_gone(
    world: World, service: RecommendService
) -> None:
    with pytest.raises(GoneError):
        service.answer(ask("u1", 5), before_recheck=lambda: world.forget("u1") and None)


def test_an_item_forgotten_between_read_and_send_is_not_recommended(
    world: World, service: RecommendService
) -> None:
    best = service.answer(ask("u1", 1)).items[0].item_id
    forgotten: list[str] = []

    def once() -> None:
        if not forgotten:
            forgotten.append(world.forget(item_id=best))

    answer = service.answer(ask("u1", ITEMS), before_recheck=once)
    assert forgotten
    assert best not in {item.item_id for item in answer.items}


def test_deletions_faster_than_answers_end_in_unavailable(
    world: World, service: RecommendService
) -> None:
    others = iter(USERS[2:])
    with pytest.raises(UnavailableError, match="Deletions arrive faster"):
        service.answer(ask("u1", 5), before_recheck=lambda: world.forget(next(others)) and None)


def test_an_answer_under_way_at_the_flip_is_made_anew(
    world: World, service: RecommendService, replica: Replica
) -> None:
    lease, name = world.publish(2)
    wait_until(lambda: world.live_replicas()[0].prepared == name, "nothing was prepared")
    flipped: list[bool] = []

    def flip_once() -> None:
        if not flipped:
            flipped.append(True)
            world.flip(lease, name)

    answer = service.answer(ask("u1", 5), before_recheck=flip_once)
    assert answer.release == name
    check_scores(world, answer)
    assert replica.swaps == 2


def test_without_the_right_to_answer_nothing_is_sent(
    service: RecommendService, replica: Replica
) -> None:
    replica.stop()
    with pytest.raises(ReplicaNotReadyError):
        service.answer(ask("u1", 5))


def test_the_right_is_looked_at_after_scoring_too(
    service: RecommendService, replica: Replica
) -> None:
    with pytest.raises(ReplicaNotReadyError):
        service.answer(ask("u1", 5), before_recheck=replica.stop)


def test_without_any_release_it_says_so(world: World, make_replica: Callable[[], Replica]) -> None:
    replica = make_replica()
    replica.tick()
    service = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    with pytest.raises(NoReleaseError):
        service.answer(ask("u1", 5))
    service.close()


def test_what_does_not_fit_is_refused_at_once(world: World, replica: Replica) -> None:
    settings = world.settings.model_copy(update={"scoring_threads": 1, "scoring_queue": 2})
    service = RecommendService(settings, world.uow, world.pseudonyms, replica, replica.first_stage)
    busy, go = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        go.wait(30)

    async def crowd() -> tuple[list[str], str]:
        # The one thread is held by other work, so that both places stay taken.
        service.scoring._executor.submit(block)
        busy.wait(30)
        calls = [asyncio.create_task(service.recommend(ask("u1", 5))) for _ in range(2)]
        await asyncio.sleep(0)
        try:
            with pytest.raises(OverloadedError):
                await service.recommend(ask("u1", 5))
        finally:
            go.set()
        first = [answer.release for answer in await asyncio.gather(*calls)]
        return first, (await service.recommend(ask("u1", 5))).release

    before, after = asyncio.run(crowd())
    assert before == [after, after]
    service.close()
