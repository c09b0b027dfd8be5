"""Test that the executor bounds its places and frees each place again."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import OverloadedError, UnavailableError
from app.serving.recommend.bounded_executor import BoundedExecutor, ExpectedSeconds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def executor() -> Iterator[BoundedExecutor]:
    executor = BoundedExecutor(threads=1, places=3, seconds=60.0, name="test")
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
    assert executor.accepted == 0


class Clock:
    """A clock that moves only when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Load:
    """Work on an executor with one thread, which a test holds and measures."""

    def __init__(self, *, places: int = 64, seconds: float = 1.0) -> None:
        self.clock = Clock()
        self.go = threading.Event()
        self.executor = BoundedExecutor(
            threads=1, places=places, seconds=seconds, name="test", monotonic=self.clock
        )

    async def measure(self, size: int, seconds: float) -> None:
        """Run work of this size that takes this long."""

        def work() -> None:
            self.clock.now += seconds

        await self.executor.run(work, size)

    async def accepted_of(self, sizes: list[int]) -> list[int]:
        """Send works of these sizes while no work ends; return the sizes that were accepted."""
        tasks = []
        for size in sizes:
            tasks.append(asyncio.create_task(self.executor.run(lambda: self.go.wait(30), size)))
            await asyncio.sleep(0)
        self.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self.executor.close()
        return [
            size
            for size, result in zip(sizes, results, strict=True)
            if not isinstance(result, OverloadedError)
        ]


def test_call_for_many_users_leaves_room_for_calls_for_one_user() -> None:
    """A call for 50 users that takes as long as five others counts as five, not as fifty."""
    load = Load(seconds=10.0)

    async def run() -> list[int]:
        await load.measure(1, 0.1)
        await load.measure(50, 0.5)
        return await load.accepted_of([50] + [1] * 63)

    assert asyncio.run(run()) == [50] + [1] * 63


def test_work_is_bounded_by_its_expected_time() -> None:
    load = Load(seconds=1.0)

    async def run() -> list[int]:
        await load.measure(1, 0.3)
        await load.measure(40, 0.6)
        # 0.3 s, 0.3 s, then 0.6 s would be 1.2 s; a third single call is 0.9 s.
        return await load.accepted_of([1, 1, 40, 1, 1])

    assert asyncio.run(run()) == [1, 1, 1]


def test_refusal_says_when_the_accepted_work_is_expected_to_end() -> None:
    load = Load(seconds=5.0)

    async def run() -> int:
        await load.measure(1, 4.0)
        held = asyncio.create_task(load.executor.run(lambda: load.go.wait(30)))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await load.executor.run(lambda: None)
        load.go.set()
        await held
        load.executor.close()
        return int(refused.value.context["retry_after"])

    assert asyncio.run(run()) == 4


def test_idle_executor_accepts_work_of_any_length() -> None:
    load = Load(seconds=1.0)

    async def run() -> list[int]:
        await load.measure(50, 30.0)
        return await load.accepted_of([50, 50])

    assert asyncio.run(run()) == [50]


def test_expected_time_follows_the_measurements() -> None:
    expected = ExpectedSeconds()
    assert expected.of(8) == 0.0
    expected.measure(1, 2.0)
    assert (expected.of(1), expected.of(8)) == (2.0, 16.0)  # No work of this size was measured.
    expected.measure(8, 4.0)
    assert (expected.of(1), expected.of(8), expected.of(12)) == (2.0, 4.0, 6.0)
    for _ in range(100):
        expected.measure(1, 1.0)
    assert expected.of(1) == pytest.approx(1.0, abs=0.01)


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
        assert executor.accepted == 2
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        # Running work cannot be stopped and keeps its place; queued work is canceled.
        assert executor.accepted == 1
        go.set()
        assert await executor.run(lambda: True)

    asyncio.run(cancel())
    assert executor.accepted == 0


def test_failed_work_frees_its_place(executor: BoundedExecutor) -> None:
    def fail() -> None:
        raise ValueError("no")

    async def run_several() -> None:
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                await executor.run(fail)

    asyncio.run(run_several())
    assert executor.accepted == 0


def test_work_after_close_is_refused() -> None:
    executor = BoundedExecutor(threads=1, places=1, seconds=60.0, name="test")
    executor.close()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="shutting down"):
            asyncio.run(executor.run(lambda: True))
    assert executor.accepted == 0
