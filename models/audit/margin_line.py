"""Fit the line of a method's mean margin over Retrain's mean margin, by row.

Both means contain seed noise. Ordinary regression would underestimate the slope, because Retrain's
noise enlarges the regressor's variance (attenuation). Every product of two margins is therefore
taken between runs of different seeds, whose noise is independent, so that covariance and variance
are those of the expected margins (method of moments; Fuller, Measurement Error Models, 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.systematic import CONFIDENCE, TooFewRunsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.audit.systematic import Runs

    Floats = NDArray[np.float64]

RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Slope and offset (logits) of the line, each with a 95 % interval over people.

    An unchanged method has slope 1 and offset 0. The intervals are percentiles of a bootstrap of
    whole people and do not contain the error of the seeds; they are None for one person.
    """

    slope: float
    offset: float
    slope_interval: tuple[float, float] | None
    offset_interval: tuple[float, float] | None


def margin_line(first: Runs, second: Runs, people: NDArray[Any]) -> Line:
    """Fit first = offset + slope · second on F rows of `people` [F].

    Raises TooFewRunsError if no two runs of different seeds exist, or if the second side's expected
    margins do not differ between rows.
    """
    _, position, rows = np.unique(people, return_inverse=True, return_counts=True)
    across = np.not_equal.outer(np.asarray(first.seeds), np.asarray(second.seeds))
    within = np.not_equal.outer(np.asarray(second.seeds), np.asarray(second.seeds))
    if not (across.any() and within.any()):
        raise TooFewRunsError(TooFewRunsError.__doc__)
    sums = _sums(first.margins, second.margins, position, len(rows))
    generator = np.random.default_rng(0)
    counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(rows))), counts])
    total = (weights @ rows)[:, None]
    means = [weights @ part / total for part in sums[:2]]
    products = [
        np.tensordot(weights, part, axes=1) / total[:, :, None]
        - means[left][:, :, None] * means[1][:, None, :]
        for left, part in enumerate(sums[2:])
    ]
    covariance = (products[0] * across).sum((1, 2)) / across.sum()
    variance = (products[1] * within).sum((1, 2)) / within.sum()
    if variance[0] <= 0:
        raise TooFewRunsError("Retrain's expected margins do not differ between rows.")
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = covariance / variance
    offsets = means[0].mean(1) - slopes * means[1].mean(1)
    many = len(rows) > 1
    return Line(
        slope=float(slopes[0]),
        offset=float(offsets[0]),
        slope_interval=_interval(slopes[1:]) if many else None,
        offset_interval=_interval(offsets[1:]) if many else None,
    )


def _sums(
    first: Floats, second: Floats, position: NDArray[np.int64], people: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return sums by person: [P, S] and [P, K] margins, [P, S, K] and [P, K, K] products."""
    sums = (
        np.zeros((people, len(first))),
        np.zeros((people, len(second))),
        np.zeros((people, len(first), len(second))),
        np.zeros((people, len(second), len(second))),
    )
    for person in range(people):
        own, other = first[:, position == person], second[:, position == person]
        sums[0][person], sums[1][person] = own.sum(1), other.sum(1)
        sums[2][person], sums[3][person] = own @ other.T, other @ other.T
    return sums


def _interval(values: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
