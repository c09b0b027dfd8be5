"""Places are bounded, and every one of them comes back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import OverloadedError, UnavailableError
from app.serving.recommend.bounded_executor import BoundedExecutor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def capacity() -> Iterator[BoundedExecutor]:
    made = BoundedExecutor(threads=1, places=3, name="test")
    yield made
    made.close()


def test_what_does_not_fit_is_refused_with_when_to_come_back(capacity: BoundedExecutor) -> None:
    go = threading.Event()

    async def crowd() -> None:
        waiting = [asyncio.create_task(capacity.run(lambda: go.wait(30))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await capacity.run(lambda: True)
        assert 1 <= refused.value.context["retry_after"] <= 60
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 3

    asyncio.run(crowd())
    assert capacity.taken == 0


def test_a_heavy_piece_takes_its_weight_but_never_more_than_there_is(
    capacity: BoundedExecutor,
) -> None:
    async def heavy() -> int:
        return await capacity.run(lambda: capacity.taken, weight=100)

    assert asyncio.run(heavy()) == 3
    assert capacity.taken == 0


def test_a_caller_who_leaves_gives_up_the_place_unless_the_thread_is_at_it(
    capacity: BoundedExecutor,
) -> None:
    busy, go = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(30)

    async def leave() -> None:
        running = asyncio.create_task(capacity.run(hold))
        await asyncio.to_thread(busy.wait, 30)
        queued = asyncio.create_task(capacity.run(hold))
        await asyncio.sleep(0)
        assert capacity.taken == 2
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        # What runs cannot be taken from its thread; what waited is gone.
        assert capacity.taken == 1
        go.set()
        assert await capacity.run(lambda: True)

    asyncio.run(leave())
    assert capacity.taken == 0


def test_failures_give_their_place_back(capacity: BoundedExecutor) -> None:
    def fail() -> None:
        raise ValueError("no")

    async def several() -> None:
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                await capacity.run(fail)

    asyncio.run(several())
    assert capacity.taken == 0


def test_after_closing_nothing_is_taken() -> None:
    made = BoundedExecutor(threads=1, places=1, name="test")
    made.close()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="shutting down"):
            asyncio.run(made.run(lambda: True))
    assert made.taken == 0
