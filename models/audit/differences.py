"""Estimate mean paired differences in loss, with intervals clustered by person."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean paired difference in loss (nats), its standard error, and the interval.

    The error is clustered by person. For the rows of a single person, it is the error over rows;
    for fewer than two rows it is infinite, and the interval is unbounded.
    """

    mean: float
    error: float
    freedom: float
    rows: int
    people: int
    confidence: float

    @property
    def interval(self) -> tuple[float, float]:
        """Return the t interval with `confidence`."""
        if not math.isfinite(self.error):
            return -math.inf, math.inf
        width = self.error * float(stats.t.ppf((1 + self.confidence) / 2, self.freedom))
        return self.mean - width, self.mean + width

    def p_below(self, limit: float) -> float:
        """Return the one-sided p value of "the difference is at least `limit`"."""
        return self._p(self.mean - limit)

    def p_above(self, limit: float) -> float:
        """Return the one-sided p value of "the difference is at most `limit`"."""
        return self._p(limit - self.mean)

    def _p(self, distance: float) -> float:
        if not math.isfinite(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if distance < 0 else 1.0
        return float(stats.t.cdf(distance / self.error, self.freedom))

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON values; bounds that are not numbers are null."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.interval)
        return {
            "mean": self.mean,
            "interval": [low, high],
            "rows": self.rows,
            "people": self.people,
        }


def paired_difference(
    old: Floats, new: Floats, users: NDArray[np.integer], confidence: float
) -> Difference:
    """Return the mean of new − old over [M] losses (nats) of the [M] users, clustered by user."""
    change = new - old
    mean = float(change.mean()) if len(change) else 0.0
    unique, position = np.unique(users, return_inverse=True)
    people = len(unique)
    error, freedom = math.inf, 1
    if people == 1 and len(change) > 1:
        error, freedom = float(change.std(ddof=1)) / math.sqrt(len(change)), len(change) - 1
    elif people > 1:
        freedom = people - 1
        sums = np.bincount(position, change - mean)
        error = math.sqrt(float(np.square(sums).sum()) * people / (people - 1)) / len(change)
    return Difference(
        mean=mean,
        error=error,
        freedom=freedom,
        rows=len(change),
        people=people,
        confidence=confidence,
    )
