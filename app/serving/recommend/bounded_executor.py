"""Run blocking work on threads and refuse work beyond a bounded queue.

An unbounded queue would let every response time grow past the callers' timeouts, so the executor
raises OverloadedError with an estimate for `Retry-After` instead. The bound is the expected time of
the accepted work, because a call for 50 users takes one thread, and not 50 times as long as a call
for one user. The number of calls is bounded too, for the time before the first measurement.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from app.domain.errors import OverloadedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: The weight of the newest measurement in the moving averages of seconds.
_NEWEST_WEIGHT: Final = 0.1
_MAX_RETRY_SECONDS: Final = 60


class ExpectedSeconds:
    """Moving averages of the seconds per part of a work, by the order of magnitude of its size.

    Joint work costs less per part than single work, so each power of two has its own average. Not
    thread-safe.
    """

    def __init__(self) -> None:
        """Start without measurements; nothing is expected to take any time."""
        self._means: dict[int, float] = {}

    def of(self, size: int) -> float:
        """Return the expected seconds of a work with this many parts."""
        if not self._means:
            return 0.0
        nearest = min(self._means, key=lambda order: abs(order - size.bit_length()))
        return self._means[nearest] * size

    def measure(self, size: int, seconds: float) -> None:
        order = size.bit_length()
        per_part = seconds / size
        mean = self._means.get(order, per_part)
        self._means[order] = mean + _NEWEST_WEIGHT * (per_part - mean)


class BoundedExecutor:
    """Run work on `threads` threads, with a bound on the work that runs or waits at once."""

    def __init__(
        self,
        *,
        threads: int,
        places: int,
        seconds: float,
        name: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the executor; the threads start with the first work and carry `name`.

        At most `places` calls, and per thread work of `seconds` expected seconds, run or wait.
        """
        self._threads = threads
        self._places = places
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        #: Size → number of calls of this size that run or wait.
        self._accepted: Counter[int] = Counter()
        self._expected = ExpectedSeconds()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def accepted(self) -> int:
        """Return the number of calls that run or wait."""
        with self._lock:
            return self._accepted.total()

    def close(self) -> None:
        """Finish the accepted work and refuse further work."""
        self._executor.shutdown()

    async def run(self, work: Callable[[], T], size: int = 1) -> T:
        """Run `work`, which has `size` parts, on a thread and return its result.

        Raises OverloadedError when too much work runs or waits, and UnavailableError after `close`.
        """
        self._accept(size)
        try:
            future = self._executor.submit(self._run_timed, work, size)
        except RuntimeError as error:
            self._release(size)
            raise UnavailableError("This replica is shutting down.") from error
        # A canceled caller does not stop its thread. The place stays taken until the thread ends,
        # so that callers who disconnect early cannot queue more work than the bound.
        future.add_done_callback(lambda _: self._release(size))
        return await asyncio.wrap_future(future)

    def _accept(self, size: int) -> None:
        with self._lock:
            waiting = sum(self._expected.of(own) * count for own, count in self._accepted.items())
            calls = self._accepted.total()
            is_too_long = waiting + self._expected.of(size) > self._seconds * self._threads
            # An idle executor accepts work of any length: no later time would be better.
            if calls >= self._places or (calls and is_too_long):
                retry_after = min(max(1, math.ceil(waiting / self._threads)), _MAX_RETRY_SECONDS)
                raise OverloadedError(retry_after=retry_after)
            self._accepted[size] += 1

    def _release(self, size: int) -> None:
        with self._lock:
            self._accepted[size] -= 1
            if not self._accepted[size]:
                del self._accepted[size]

    def _run_timed(self, work: Callable[[], T], size: int) -> T:
        started = self._monotonic()
        try:
            return work()
        finally:
            with self._lock:
                self._expected.measure(size, self._monotonic() - started)
