"""Model the change that leaving a person out makes to the answers about that person.

One model per view (`models.audit.evidence`) and kind of row. For row i of person u, with the change
t_i and the features x_i:

    a_i = t_i − x_i·γ          γ: the change that the control rows share, fitted per comparison
    a_i = x_i·β + p_u + e_i    p_u ~ (0, τ²) differs over people, e_i ~ (0, σ²) over rows

β predicts the change of one person from what the older model answers. τ and σ contain the noise of
another seed, because the shadow model and the recommender differ in it, too; the share of seed
noise is stored as `noise` (τ and σ of the control rows, on which no person was left out).

People are the units. A person has the weight 1 / (τ² + σ² / rows), so that people with many rows do
not decide alone. The covariance of β and γ is clustered by person (Liang and Zeger 1986, with the
CR1 correction). τ² is the moment estimate of DerSimonian and Laird (1986). Intervals have the
degrees of freedom of the effective number of people, (Σ w)² / Σ w² (Kish 1965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.audit.evidence import Shift

    Floats = NDArray[np.float64]

#: Rounds of weights and variances; the second round changes both by less than 1 %.
ROUNDS: Final = 3
#: Smaller standard deviations are rounding errors (logits or shares of ranks).
LEAST_DEVIATION: Final = 1e-9
#: Median of the square of a standard normal number.
MEDIAN_SQUARE: Final = 0.455
#: Three standard deviations, squared.
LARGEST_SQUARE: Final = 9.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviations:
    """The standard deviations τ over people and σ over the rows of one person."""

    person: float
    row: float

    def of_mean(self, rows: Floats) -> Floats:
        """Return [U] variances of the means of people with [U] rows."""
        return np.asarray(self.person**2 + self.row**2 / rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class People:
    """The people of M rows: `users` [U], the position [M] of each row's person, `rows` [U]."""

    users: NDArray[np.integer]
    position: NDArray[np.integer]
    rows: Floats

    @classmethod
    def of(cls, users: NDArray[np.integer]) -> Self:
        """Group rows by person."""
        unique, position, rows = np.unique(users, return_inverse=True, return_counts=True)
        return cls(users=unique, position=position, rows=rows.astype(np.float64))

    def means(self, values: Floats) -> Floats:
        """Return the [U, ...] means of [M, ...] values."""
        return np.asarray((self.sums(values).T / self.rows).T)

    def sums(self, values: Floats) -> Floats:
        """Return the [U, ...] sums of [M, ...] values."""
        count = len(self.users)
        columns = np.atleast_2d(values.T)
        sums = np.stack([np.bincount(self.position, column, count) for column in columns])
        return np.asarray(sums.T if values.ndim > 1 else sums[0])

    def explained(self, values: Floats, by: Floats) -> Floats:
        """Return the [U] shares of each person's variance of values that a line in `by` explains.

        The share is 0 for people with fewer than three rows, through which every line goes.
        """
        first = values - self.means(values)[self.position]
        second = by - self.means(by)[self.position]
        covariances = self.sums(first * second)
        squares = self.sums(np.square(first)) * self.sums(np.square(second))
        shares = np.square(covariances) / np.maximum(squares, np.finfo(np.float64).tiny)
        return np.where(self.rows > 2, shares, 0.0)  # noqa: PLR2004 -- a line has two parameters

    def row_variances(self, values: Floats) -> Floats:
        """Return the [U] variances of values within each person; NaN for one row."""
        squares = np.bincount(self.position, (values - self.means(values)[self.position]) ** 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(squares / (self.rows - 1))


def effective_number(weights: Floats | NDArray[np.int64]) -> float:
    """Return the number of equal units that are as informative as units with [N] weights.

    The number is (sum of weights)² / sum of weights² (Kish 1965), and 0 without weights.
    """
    values = np.asarray(weights, dtype=np.float64)
    total = float(np.square(values).sum())
    return float(values.sum()) ** 2 / total if total > 0 else 0.0


def deviations(people: People, residuals: Floats) -> Deviations:
    """Estimate τ and σ from [M] residuals of at least two people."""
    means = people.means(residuals)
    free = float((people.rows - 1).sum())
    squares = float(np.square(residuals - means[people.position]).sum())
    row = math.sqrt(squares / free) if free > 0 else 0.0
    if row < LEAST_DEVIATION:
        return Deviations(person=float(means.std(ddof=1)) if len(means) > 1 else 0.0, row=0.0)
    precision = people.rows / row**2
    center = float((precision * means).sum() / precision.sum())
    excess = float((precision * np.square(means - center)).sum()) - (len(means) - 1)
    scale = float(precision.sum() - np.square(precision).sum() / precision.sum())
    person = math.sqrt(max(excess, 0.0) / scale) if scale > 0 else 0.0
    return Deviations(person=person, row=row)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonVariance:
    """The variance over people of their mean changes, without the sampling error of rows.

    The variance is `many` for people with very many rows, and by_row / rows larger for others: rows
    of one person have common histories, so that their errors are related. For people with fewer
    rows than usual, the variance lies between `most`, the mean over the people, and
    many + by_row / rows: on some data sets, the variance does not grow beyond that mean.
    """

    many: float
    by_row: float
    most: float

    @classmethod
    def of(cls, squares: Floats, rows: Floats, row: float) -> Self:
        """Fit [U] squared mean residuals of people with [U] rows by weighted least squares.

        `row` is the deviation σ of rows. Neither part is negative. Squares are limited as in
        `limited_squares`, so that single people do not decide.
        """
        typical = float(np.median(squares - MEDIAN_SQUARE * row**2 / rows)) / MEDIAN_SQUARE
        many, by_row = max(typical, 0.0), 0.0
        for _ in range(ROUNDS):
            expected = many + (by_row + row**2) / rows
            scale = 1 / np.maximum(expected, LEAST_DEVIATION**2)
            values = np.minimum(squares, LARGEST_SQUARE * expected) - row**2 / rows
            features = np.column_stack([np.ones(len(rows)), 1 / rows])
            scaled = features * scale[:, None]
            solved, _ = nnls(scaled / np.linalg.norm(scaled, axis=0), values * scale)
            many, by_row = (solved / np.linalg.norm(scaled, axis=0)).tolist()
        return cls(many=many, by_row=by_row, most=many + by_row * float((1 / rows).mean()))

    def at(self, rows: Floats) -> Floats:
        """Return the least [U] variances for people with [U] rows."""
        return np.minimum(self.up_to(rows), self.most)

    def up_to(self, rows: Floats) -> Floats:
        """Return the largest [U] variances for people with [U] rows."""
        return np.asarray(self.many + self.by_row / rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Coefficients [3], their covariance [3, 3] clustered by person, τ and σ."""

    coefficients: Floats
    covariance: Floats
    deviations: Deviations
    effective: float

    @classmethod
    def of(cls, shift: Shift, change: Floats) -> Self:
        """Fit [M] changes on the features of a shift by weighted least squares."""
        people = People.of(shift.users)
        current = Deviations(person=1.0, row=1.0)
        for _ in range(ROUNDS):
            weights = 1 / np.maximum(current.of_mean(people.rows), LEAST_DEVIATION**2)
            weights /= weights.sum()
            weighted = shift.features * (weights / people.rows)[people.position][:, None]
            bread = np.linalg.pinv(weighted.T @ shift.features, hermitian=True)
            coefficients = bread @ weighted.T @ change
            residuals = change - shift.features @ coefficients
            current = deviations(people, residuals)
        scores = people.sums(weighted * residuals[:, None])
        count = len(people.users)
        correction = count / (count - 1) if count > 1 else math.inf
        return cls(
            coefficients=coefficients,
            covariance=bread @ (scores.T @ scores) @ bread * correction,
            deviations=current,
            effective=effective_number(weights),
        )


def limited_squares(residuals: Floats, variances: Floats) -> Floats:
    """Return [U] squared standardized residuals, limited to LARGEST_SQUARE.

    Single people differ much more than a normal distribution allows. Without the limit, one of them
    would decide on the dispersion of a batch.
    """
    squares = np.square(residuals) / np.maximum(variances, LEAST_DEVIATION**2)
    return np.asarray(np.minimum(squares, LARGEST_SQUARE))


def log_variance_ratios(people: People, own: Floats, row: float) -> Floats:
    """Return the [U] logarithms of each person's row variance over σ²; NaN for one row.

    The logarithm of a mean of squares lies 1 / df below that of its expectation; this is corrected.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(people.row_variances(own) / row**2) + 1 / (people.rows - 1))
