"""Intervals over seeds: of a further run, of a paired difference, and of a loss difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats
from scipy.special import expit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
#: Bins of the calibration error, with equal numbers of rows.
BINS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def prediction_interval(values: Sequence[float], runs: int = 1) -> tuple[float, float]:
    """Return the 95 % interval that contains the mean of `runs` further runs.

    `values` [K ≥ 2] are Gaussian figures of K runs: mean ± t · s · √(1 / runs + 1 / K) (Hahn and
    Meeker, Statistical Intervals, 2017). Raises ValueError for fewer than two values.
    """
    if len(values) < 2:  # noqa: PLR2004 -- a variance needs two values
        raise ValueError("A prediction interval needs at least two runs.")
    count, mean = len(values), float(np.mean(values))
    width = float(np.std(values, ddof=1)) * np.sqrt(1 / runs + 1 / count)
    width *= float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return float(mean - width), float(mean + width)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the mean of [S] differences, one per seed, and its t interval; None for S < 2."""
    if len(values) < 2:  # noqa: PLR2004 -- a variance needs two values
        return None
    variance = float(np.var(values, ddof=1)) / len(values)
    return _interval(float(np.mean(values)), variance, len(values) - 1)


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Return the difference of two means of [S] and [K] runs with Welch's interval.

    None for fewer than two runs on a side.
    """
    if min(len(first), len(second)) < 2:  # noqa: PLR2004 -- a variance needs two values
        return None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    degrees = [len(first) - 1, len(second) - 1]
    return _interval(float(np.mean(first) - np.mean(second)), *_combine(parts, degrees))


def loss_difference(differences: Floats, users: NDArray[Any]) -> Interval | None:
    """Return the mean of [S, M] differences of row losses of S seed-paired runs, in nats.

    `users` [M] are the rows' users. The interval adds the variance over seeds and the variance over
    users (clustered: the sum of a user's deviations counts once), with Satterthwaite's degrees of
    freedom. None for fewer than two seeds or users.
    """
    _, position = np.unique(users, return_inverse=True)
    people = int(position.max()) + 1 if len(position) else 0
    if min(len(differences), people) < 2:  # noqa: PLR2004 -- a variance needs two values
        return None
    by_row = differences.mean(axis=0)
    mean = float(by_row.mean())
    sums = np.bincount(position, weights=by_row - mean) / len(by_row)
    over_users = people / (people - 1) * float((sums**2).sum())
    over_seeds = float(np.var(differences.mean(axis=1), ddof=1)) / len(differences)
    degrees = [len(differences) - 1, people - 1]
    return _interval(mean, *_combine([over_seeds, over_users], degrees))


def calibration_error(labels: NDArray[np.floating], margins: Floats) -> float:
    """Return the expected calibration error of [M] margins for labels of 0 or 1.

    The mean over BINS bins of equal numbers of rows, ordered by P(Yes), of the absolute difference
    between the mean P(Yes) and the share of likes, weighted by rows (Naeini et al., AAAI 2015, with
    bins of equal mass). NaN without rows.
    """
    if not len(labels):
        return float("nan")
    order = np.argsort(margins, kind="stable")
    gaps = expit(margins[order]) - labels[order]
    parts = np.array_split(gaps, min(BINS, len(gaps)))
    return float(sum(abs(part.sum()) for part in parts) / len(gaps))


def _combine(variances: Sequence[float], degrees: Sequence[int]) -> tuple[float, float]:
    """Return the sum of independent variances of means, and Satterthwaite's degrees of freedom."""
    total = sum(variances)
    parts = sum(part**2 / free for part, free in zip(variances, degrees, strict=True))
    return total, total**2 / parts if parts > 0 else float(min(degrees))


def _interval(mean: float, variance: float, degrees: float) -> Interval:
    width = float(np.sqrt(variance) * stats.t.ppf((1 + CONFIDENCE) / 2, degrees))
    return Interval(mean=mean, low=mean - width, high=mean + width)
