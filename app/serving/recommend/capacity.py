"""Threads behind a bounded number of places: what does not fit is refused at once.

A queue that grows answers nobody in time. Knows nothing of what the work is.
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

#: The weight of the newest measurement in the mean time that a place is held.
_NEWEST: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 60


class Capacity:
    """Runs work off the event loop, as much at once as there are threads."""

    def __init__(self, *, threads: int, places: int, name: str) -> None:
        """Take at most so many pieces of work, waiting ones included."""
        self._threads = threads
        self._places = places
        self._lock = threading.Lock()
        self._taken = 0
        self._seconds = 0.0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def taken(self) -> int:
        """Return how many places are taken."""
        return self._taken

    def close(self) -> None:
        """Let what is under way end, and take no more."""
        self._executor.shutdown()

    async def run(self, work: Callable[[], T], weight: int = 1) -> T:
        """Return what the work returns, on a thread of its own; `weight` places are taken.

        Raises OverloadedError when there is no place, and UnavailableError at shutdown.
        """
        weight = min(weight, self._places)
        self._take(weight)
        try:
            future = self._executor.submit(self._timed, work, weight)
        except RuntimeError as error:
            self._give_back(weight)
            raise UnavailableError("This replica is shutting down.") from error
        # The place is held for as long as the thread is busy, also when the caller has gone.
        future.add_done_callback(lambda _: self._give_back(weight))
        return await asyncio.wrap_future(future)

    def _take(self, weight: int) -> None:
        with self._lock:
            if self._taken + weight > self._places:
                waiting = self._taken * self._seconds / self._threads
                retry_after = min(max(1, math.ceil(waiting)), _LONGEST_RETRY_SECONDS)
                raise OverloadedError(retry_after=retry_after)
            self._taken += weight

    def _give_back(self, weight: int) -> None:
        with self._lock:
            self._taken -= weight

    def _timed(self, work: Callable[[], T], weight: int) -> T:
        started = time.monotonic()
        try:
            return work()
        finally:
            seconds = (time.monotonic() - started) / weight
            with self._lock:
                self._seconds += _NEWEST * (seconds - self._seconds)
