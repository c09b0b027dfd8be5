"""Test that an answer uses one release and a valid lease, and no forgotten data."""

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
    UnknownUserError,
)
from app.serving.recommend.service import RecommendService
from tests.support.gateway_world import ITEMS, USERS, World, ask
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.recommendations import Recommendation
    from app.serving.replica.replica import Replica


def check_scores(world: World, answer: Recommendation) -> None:
    """Check that the scores and the order are those of the answer's release."""
    ids = [item.item_id for item in answer.items]
    expected = world.scores(answer.release, answer.user_id, ids)
    assert [item.score for item in answer.items] == pytest.approx(expected, abs=1e-5)
    assert expected == sorted(expected, reverse=True)
    assert [item.rank for item in answer.items] == list(range(1, len(ids) + 1))


def test_an_answer_has_the_scores_of_its_release_and_no_seen_items(
    world: World, service: RecommendService
) -> None:
    answer = service.answer(ask("u1", 5))
    check_scores(world, answer)
    with world.uow(write=False) as uow:
        seen = {event.item_id for event in uow.people.history("u1")}
    assert len(answer.items) == 5
    assert not seen & {item.item_id for item in answer.items}


def test_seen_items_are_included_on_request(service: RecommendService) -> None:
    answer = service.answer(ask("u1", ITEMS, exclude_seen=False))
    assert len(answer.items) == ITEMS


def test_an_unknown_user_is_refused(service: RecommendService) -> None:
    with pytest.raises(UnknownUserError):
        service.answer(ask("unknown", 5))


def test_each_answer_during_swaps_under_load_is_of_one_release(
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
        # `result` raises the error of a failed answer.
        answers = [answer for future in running for answer in future.result()]
    for answer in answers:
        check_scores(world, answer)
    assert {answer.release for answer in answers} >= set(names[:2])


def test_a_user_forgotten_between_read_and_send_is_gone(
    world: World, service: RecommendService
) -> None:
    with pytest.raises(GoneError):
        service.answer(ask("u1", 5), before_recheck=lambda: world.forget("u1") and None)


def test_an_item_forgotten_between_read_and_send_is_not_recommended(
    world: World, service: RecommendService
) -> None:
    best = service.answer(ask("u1", 1)).items[0].item_id
    forgotten: list[str] = []

    def forget_once() -> None:
        if not forgotten:
            forgotten.append(world.forget(item_id=best))

    answer = service.answer(ask("u1", ITEMS), before_recheck=forget_once)
    assert forgotten
    assert best not in {item.item_id for item in answer.items}


def test_an_answer_in_progress_at_the_flip_is_computed_again(
    world: World, service: RecommendService, replica: Replica
) -> None:
    lease, name = world.publish(2)
    wait_until(lambda: world.live_replicas()[0].prepared == name, "the release was not prepared")
    flipped: list[bool] = []

    def flip_once() -> None:
        if not flipped:
            flipped.append(True)
            world.flip(lease, name)

    answer = service.answer(ask("u1", 5), before_recheck=flip_once)
    assert answer.release == name
    check_scores(world, answer)
    assert replica.swaps == 2


def test_without_a_valid_lease_no_answer_is_sent(
    service: RecommendService, replica: Replica
) -> None:
    replica.stop()
    with pytest.raises(ReplicaNotReadyError):
        service.answer(ask("u1", 5))


def test_the_lease_is_checked_after_scoring_too(
    service: RecommendService, replica: Replica
) -> None:
    with pytest.raises(ReplicaNotReadyError):
        service.answer(ask("u1", 5), before_recheck=replica.stop)


def test_without_a_live_release_the_query_is_refused(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    replica = make_replica()
    replica.tick()
    service = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    with pytest.raises(NoReleaseError):
        service.answer(ask("u1", 5))
    service.close()


def test_a_query_beyond_the_queue_is_refused_at_once(world: World, replica: Replica) -> None:
    settings = world.settings.model_copy(update={"scoring_threads": 1, "scoring_queue": 2})
    service = RecommendService(settings, world.uow, world.pseudonyms, replica, replica.first_stage)
    busy, go = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        go.wait(30)

    async def overload() -> tuple[list[str], str]:
        # Other work holds the only thread, so that both places stay taken.
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

    before, after = asyncio.run(overload())
    assert before == [after, after]
    service.close()
