"""Test that the executor bounds its places and frees each place again."""

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
def executor() -> Iterator[BoundedExecutor]:
    executor = BoundedExecutor(threads=1, places=3, name="test")
    yield executor
    executor.close()


def test_work_beyond_the_places_is_refused_with_a_retry_time(executor: BoundedExecutor) -> None:
    go = threading.Event()

    async def overload() -> None:
        waiting = [asyncio.create_task(executor.run(lambda: go.wait(30))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await executor.run(lambda: True)
        assert 1 <= refused.value.context["retry_after"] <= 60
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 3

    asyncio.run(overload())
    assert executor._taken == 0


def test_weighted_work_takes_at_most_all_places(executor: BoundedExecutor) -> None:
    async def run_heavy() -> int:
        return await executor.run(lambda: executor._taken, weight=100)

    assert asyncio.run(run_heavy()) == 3
    assert executor._taken == 0


def test_a_canceled_caller_frees_the_place_unless_the_work_is_running(
    executor: BoundedExecutor,
) -> None:
    busy, go = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(30)

    async def cancel() -> None:
        running = asyncio.create_task(executor.run(hold))
        await asyncio.to_thread(busy.wait, 30)
        queued = asyncio.create_task(executor.run(hold))
        await asyncio.sleep(0)
        assert executor._taken == 2
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        # Running work cannot be stopped and keeps its place; queued work is canceled.
        assert executor._taken == 1
        go.set()
        assert await executor.run(lambda: True)

    asyncio.run(cancel())
    assert executor._taken == 0


def test_failed_work_frees_its_place(executor: BoundedExecutor) -> None:
    def fail() -> None:
        raise ValueError("no")

    async def run_several() -> None:
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                await executor.run(fail)

    asyncio.run(run_several())
    assert executor._taken == 0


def test_work_after_close_is_refused() -> None:
    executor = BoundedExecutor(threads=1, places=1, name="test")
    executor.close()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="shutting down"):
            asyncio.run(executor.run(lambda: True))
    assert executor._taken == 0
