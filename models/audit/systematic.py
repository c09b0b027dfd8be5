"""Estimate how far a method's mean answers are from Retrain's, without the noise of seeds.

A distance between single runs consists mostly of seed noise. The systematic distance of a row is
the squared difference of both sides' expected margins. The estimator averages products
(x_s - y_k)(x_t - y_l) over all choices of runs in which both factors share no seed. The expectation
of every product is exactly the squared difference, even where runs of one seed start from the same
initial weights; the estimate can be negative. This is a two-sample U-statistic (Hoeffding 1948),
equal to the squared difference of the means less both sides' variances of the mean where no seed
occurs on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.linalg import helmert

from models.audit.person_model import People, effective_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
#: Minimum number of runs on a side for an interval: the noise needs two contrasts.
MIN_RUNS: Final = 3
#: Maximum number of splits of the Retrain runs; eight runs have 56 splits into three and five.
MAX_SPLITS: Final = 60
#: Quantiles of the distances of single people.
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


class TooFewRunsError(ValueError):
    """A systematic distance needs two runs on each side, with different seeds. Add seeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Runs:
    """Margins [S, F] of S runs on F rows, and the S seeds of the runs.

    Runs of the same seed may depend on each other, on the same side or on two sides.
    """

    margins: Floats
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, indices: Iterable[int]) -> Runs:
        """Return the runs at these indices."""
        chosen = list(indices)
        return Runs(
            margins=self.margins[chosen], seeds=tuple(self.seeds[index] for index in chosen)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """A mean squared difference of margins (squared logits) per row, and its 95 % interval.

    `low` and `high` are None for one person or for fewer than three runs on a side. `people` have
    `rows` rows; `effective_people` is (sum of rows)² / sum of rows².
    """

    distance: float
    low: float | None
    high: float | None
    people: int
    effective_people: float
    rows: int

    @property
    def covers_zero(self) -> bool | None:
        """Return whether the interval contains 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0 <= self.high


def squared_differences(first: Runs, second: Runs) -> Floats:
    """Return the [F] unbiased squared differences of expected margins; raises TooFewRunsError."""
    stacked = np.concatenate([first.margins, second.margins])
    result: Floats = ((_form(first.seeds, second.seeds) @ stacked) * stacked).sum(axis=0)
    return result


def _form(first: Sequence[int], second: Sequence[int]) -> Floats:
    """Return the quadratic form [S + K, S + K] of the estimator for one row."""
    runs, others = np.divmod(np.arange(len(first) * len(second)), max(len(second), 1))
    own, other = np.asarray(first)[runs], np.asarray(second)[others]
    disjoint = np.ones((len(runs), len(runs)), dtype=bool)
    for left in (own, other):
        for right in (own, other):
            disjoint &= left[:, None] != right[None, :]
    if not disjoint.any():
        raise TooFewRunsError(TooFewRunsError.__doc__)
    differences = np.zeros((len(runs), len(first) + len(second)))
    differences[np.arange(len(runs)), runs] = 1.0
    differences[np.arange(len(runs)), len(first) + others] = -1.0
    result: Floats = differences.T @ disjoint.astype(np.float64) @ differences / disjoint.sum()
    return result


def per_person_means(values: Floats, people: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """Return the [P] means of [F] values and the [P] numbers of rows, by ascending person."""
    grouped = People.of(people)
    return grouped.means(values), grouped.rows.astype(np.int64)


def systematic_distance(
    first: Runs, second: Runs, people: NDArray[Any], random_seed: int = 0
) -> Distance:
    """Return the mean over rows of the squared differences; `people` [F] are the rows' people.

    The interval adds two independent sources of error: people, by a bootstrap of whole people whose
    deviations are widened by √(n / (n − 1)) for n effective people, and seeds, which all people
    share, by Student's t with the error of `_seed_error`. Raises TooFewRunsError.
    """
    means, rows = per_person_means(squared_differences(first, second), people)
    distance = float((means * rows).sum() / rows.sum())
    effective = effective_number(rows)
    low = high = None
    error = _seed_error(first, second)
    if error is not None and len(rows) > 1:
        generator = np.random.default_rng(random_seed)
        counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
        resampled = (counts @ (means * rows)) / (counts @ rows)
        drawn = distance + (resampled - distance) * np.sqrt(effective / (effective - 1))
        drawn += error[0] * generator.standard_t(error[1], RESAMPLES)
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(value) for value in np.quantile(drawn, [tail, 1 - tail]))
    return Distance(
        distance=distance,
        low=low,
        high=high,
        people=len(rows),
        effective_people=effective,
        rows=int(rows.sum()),
    )


def _seed_error(first: Runs, second: Runs) -> tuple[float, float] | None:
    """Return the standard error of the mean distance over seeds, and its degrees of freedom.

    With Gaussian noise the error has two parts: twice the product of the true difference and the
    noise of the means, and the product of two noises. Their variances follow from the contrasts
    between the runs of a side, which are independent of the side's mean. A positive correlation
    between runs of one seed on two sides makes the error an overestimate. None for fewer than three
    runs on a side.
    """
    sides = (first, second)
    if min(map(len, sides)) < MIN_RUNS:
        return None
    form = _form(first.seeds, second.seeds)
    rows = first.margins.shape[1]
    contrasts = [_contrasts(side.margins) for side in sides]
    degrees = [len(first) - 1, len(second) - 1]
    own = [_noise_product(contrast) for contrast in contrasts]
    # An upper bound (Cauchy-Schwarz): the product itself is large if runs of one seed depend.
    cross = float(np.sqrt(own[0] * own[1]))
    products = np.array([[own[0], cross], [cross, own[1]]])
    difference = first.margins.mean(axis=0) - second.margins.mean(axis=0)
    parts = [slice(0, len(first)), slice(len(first), None)]
    variances = []
    for side, part in enumerate(parts):
        along = float(((contrasts[side] @ difference / rows) ** 2).mean())
        # The estimated difference contains noise, which adds these products.
        along -= products[side, 0] / len(first) + products[side, 1] / len(second)
        weights = form[part, parts[0]].sum(axis=1)
        linear = 4 * float((weights**2).sum()) * max(along, 0.0)
        quadratic = 2 * sum(
            float((form[part, parts[other]] ** 2).sum()) * products[side, other] for other in (0, 1)
        )
        variances.append(linear + quadratic)
    total = sum(variances)
    if total <= 0:
        return 0.0, float(min(degrees))
    spread = sum(value**2 / free for value, free in zip(variances, degrees, strict=True))
    return float(np.sqrt(total)), total**2 / spread


def _contrasts(margins: Floats) -> Floats:
    """Return S - 1 orthonormal contrasts [S - 1, F], whose noise is that of one run (Helmert)."""
    contrasts: Floats = helmert(len(margins)) @ margins
    return contrasts


def _noise_product(contrasts: Floats) -> float:
    """Return the expected square of the mean product of two independent noises of a side.

    That is tr(Σ²) / F² for the [F, F] covariance Σ of the noise, estimated without bias from n
    independent contrasts: (tr A² - (tr A)² / n) / ((n - 1)(n + 2)) for A = their products / F.
    """
    count, rows = contrasts.shape
    gram = contrasts @ contrasts.T / rows
    spread = float((gram**2).sum() - np.trace(gram) ** 2 / count)
    return float(max(spread, 0.0) / ((count - 1) * (count + 2)))


def split_control(retrained: Runs, size: int, people: NDArray[Any]) -> list[Distance]:
    """Compare Retrain runs with other Retrain runs: `size` of K runs against the others.

    Returns all splits or, above MAX_SPLITS, a fixed random choice of splits, each with its
    interval. The mean over all splits is 0 by symmetry, so the share of intervals that cover 0 is
    the evidence. Raises TooFewRunsError for fewer than two runs on a side.
    """
    count = len(retrained)
    if min(size, count - size) < 2:  # noqa: PLR2004 -- a variance needs two runs
        raise TooFewRunsError(TooFewRunsError.__doc__)
    generator = np.random.default_rng(0)
    splits = (
        list(combinations(range(count), size))
        if comb(count, size) <= MAX_SPLITS
        else [tuple(generator.permutation(count)[:size].tolist()) for _ in range(MAX_SPLITS)]
    )
    return [
        systematic_distance(
            retrained.take(split),
            retrained.take(index for index in range(count) if index not in split),
            people,
        )
        for split in splits
    ]


def variance_ratio(first: Runs, second: Runs) -> float | None:
    """Return the mean seed variance of the first side's margins over that of the second.

    None for fewer than two runs on a side or without variance on the second side.
    """
    if min(len(first), len(second)) < 2:  # noqa: PLR2004 -- a variance needs two runs
        return None
    own, other = (side.margins.var(axis=0, ddof=1).mean() for side in (first, second))
    return float(own / other) if other > 0 else None
