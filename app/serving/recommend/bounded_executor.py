"""Run blocking work on threads and refuse work beyond a bounded queue.

An unbounded queue would let every response time grow past the callers' timeouts, so the executor
raises OverloadedError with an estimate for `Retry-After` instead.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from app.domain.errors import OverloadedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: The weight of the newest measurement in the moving average of seconds per place.
_NEWEST_WEIGHT: Final = 0.1
_MAX_RETRY_SECONDS: Final = 60


class BoundedExecutor:
    """Run work on `threads` threads; at most `places` items run or wait at once."""

    def __init__(self, *, threads: int, places: int, name: str) -> None:
        """Create the executor; the threads start with the first work and carry `name`."""
        self._threads = threads
        self._places = places
        self._lock = threading.Lock()
        #: The places of running and waiting work.
        self._taken = 0
        self._mean_seconds = 0.0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def close(self) -> None:
        """Finish the accepted work and refuse further work."""
        self._executor.shutdown()

    async def run(self, work: Callable[[], T], weight: int = 1) -> T:
        """Run `work` on a thread and return its result; the work takes `weight` places.

        Raises OverloadedError when no place is free, and UnavailableError after `close`.
        """
        weight = min(weight, self._places)
        self._take_places(weight)
        try:
            future = self._executor.submit(self._run_timed, work, weight)
        except RuntimeError as error:
            self._release_places(weight)
            raise UnavailableError("This replica is shutting down.") from error
        # A canceled caller does not stop its thread. The places stay taken until the thread ends,
        # so that callers who disconnect early cannot queue more work than the bound.
        future.add_done_callback(lambda _: self._release_places(weight))
        return await asyncio.wrap_future(future)

    def _take_places(self, weight: int) -> None:
        with self._lock:
            if self._taken + weight > self._places:
                waiting_seconds = self._taken * self._mean_seconds / self._threads
                retry_after = min(max(1, math.ceil(waiting_seconds)), _MAX_RETRY_SECONDS)
                raise OverloadedError(retry_after=retry_after)
            self._taken += weight

    def _release_places(self, weight: int) -> None:
        with self._lock:
            self._taken -= weight

    def _run_timed(self, work: Callable[[], T], weight: int) -> T:
        started = time.monotonic()
        try:
            return work()
        finally:
            seconds = (time.monotonic() - started) / weight
            with self._lock:
                self._mean_seconds += _NEWEST_WEIGHT * (seconds - self._mean_seconds)
