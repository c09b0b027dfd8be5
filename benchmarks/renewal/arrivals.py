"""Deletion requests of a simulated period, and the times at which a batch can take them.

Times are true seconds since the start. The database's clock can differ: `Clock` converts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

HOUR: Final = 3_600.0
DAY: Final = 86_400.0
#: The rate at 15:00 is 1.8 times the mean, the rate at 3:00 0.2 times the mean.
_SWING: Final = 0.8
_PEAK_HOUR: Final = 15
#: A short search is faster than one of the whole period.
_NEAR: Final = 1_024

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The requests of a period: mean number per day, and one day with `burst` times as many."""

    per_day: float
    days: int = 365
    burst_day: int | None = None
    burst: float = 100.0

    def draw(self, generator: np.random.Generator) -> Times:
        """Draw the times of all requests, in order: a Poisson process with a rate per hour."""
        hours = np.arange(self.days * 24)
        swing = _SWING * np.cos(2.0 * math.pi * (hours % 24 - _PEAK_HOUR) / 24.0)
        rates = self.per_day / 24.0 * (1.0 + swing)
        if self.burst_day is not None:
            rates[hours // 24 == self.burst_day] *= self.burst
        counts = generator.poisson(rates)
        times = np.repeat(hours * HOUR, counts)
        times += generator.random(len(times)) * HOUR
        times.sort()
        return times


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The database's clock. At each (true time, offset) the difference to the true time changes."""

    changes: tuple[tuple[float, float], ...] = ()

    def read(self, time: float) -> float:
        """Return what the clock shows at the true time."""
        if not self.changes:
            return time
        shown = time
        for changed_at, offset in self.changes:
            if time >= changed_at:
                shown = time + offset
        return shown

    def first_time(self, shown: float, since: float) -> float:
        """Return the first true time from `since` on at which the clock shows `shown` or more."""
        starts = [since, *(at for at, _ in self.changes if at > since)]
        for start, end in zip(starts, [*starts[1:], math.inf], strict=True):
            time = max(start, start + shown - self.read(start))
            if time < end:
                return time
        return math.inf  # Not reached: the last interval has no end.


class BatchQueue:
    """The requests in the order in which batches take them.

    The rule of `app.services.batches` for requests of one group that never failed: a batch
    takes up to `size` requests whose cancel window is over, and is due when `size` of them are
    ready or when one has been ready for `patience` seconds.
    """

    def __init__(
        self, created: Times, clock: Clock, *, size: int, window: float, patience: float
    ) -> None:
        self.created = self._arrivals = created
        self._clock, self._size = clock, size
        self._window, self._patience = window, patience
        self._ready: Times | None = None
        #: The number of requests that batches have taken.
        self.taken = 0
        if clock.changes:
            ready = np.array([clock.first_time(clock.read(t) + window, t) for t in created])
            order = np.argsort(ready, kind="stable")
            self.created, self._ready = created[order], ready[order]
        #: The true time at which the next batch is or was due; infinite if none comes.
        self.due_at = self._next_due_at()

    def waiting(self, time: float) -> int:
        """Return the number of requests without a batch, including those in the cancel window."""
        near = self._arrivals[self.taken : self.taken + _NEAR]
        count = int(near.searchsorted(time, side="right"))
        if count == _NEAR:  # Many wait, so search all.
            count = int(self._arrivals.searchsorted(time, side="right")) - self.taken
        return count

    def take(self, size: int) -> None:
        """Take the next requests into a batch."""
        self.taken += size
        self.due_at = self._next_due_at()

    def _next_due_at(self) -> float:
        if self.taken >= len(self.created):
            return math.inf
        first = self._ready_at(self.taken)
        if self._ready is None:
            due_at = first + self._patience
        else:
            due_at = self._clock.first_time(self._clock.read(first) + self._patience, first)
        last = self.taken + self._size - 1
        return min(due_at, self._ready_at(last)) if last < len(self.created) else due_at

    def next_size(self, time: float) -> int:
        """Return the number of requests that a batch at this time takes."""
        end = self.taken + self._size
        if self._ready is None:
            ready = self.created[self.taken : end] + self._window
        else:
            ready = self._ready[self.taken : end]
        return int(ready.searchsorted(time, side="right"))

    def _ready_at(self, index: int) -> float:
        if self._ready is None:
            return float(self.created[index]) + self._window
        return float(self._ready[index])
