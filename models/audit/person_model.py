"""Fit and store the change that leaving a person out makes, as parameters without values of people.

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
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.evidence import Shift, View

    Floats = NDArray[np.float64]

#: Rounds of weights and variances; the second round changes both by less than 1 %.
ROUNDS: Final = 3
#: Smaller standard deviations are rounding errors (logits or shares of ranks).
LEAST_DEVIATION: Final = 1e-9
#: Variances of fewer rows of a person have too skewed logarithms.
MINIMUM_VARIANCE_ROWS: Final = 5
#: Least share of the row variance that is not seed noise.
LEAST_QUIET: Final = 0.1
#: Three standard deviations, squared.
LARGEST_SQUARE: Final = 9.0
#: A row is unchanged below this share of the root mean square change of rows left out.
UNCHANGED: Final = 0.05


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

    def row_variances(self, values: Floats) -> Floats:
        """Return the [U] variances of values within each person; NaN for one row."""
        squares = np.bincount(self.position, (values - self.means(values)[self.position]) ** 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(squares / (self.rows - 1))


def effective_number(weights: Floats) -> float:
    """Return the number of equal units that are as informative as units with these weights."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewModel:
    """The fitted model of one view and kind of row, as stored in a release's manifest.

    - `noise`: τ and σ of the control rows.
    - `variance_center`, `variance_spread`: mean and standard deviation over people of the logarithm
      of their row variance over σ², the latter beyond its sampling error.
    - `square_mean`, `square_spread`: mean and standard deviation over people of their squared
      standardized residuals (`limited_squares`).
    - `unchanged_limit`: a row is unchanged if its change, less that of the controls, is smaller;
      `unchanged_share` is the mean share of such rows over the left-out people.
    - `effective`, `people`, `rows`: the effective number and the number of left-out people, and
      their rows.
    """

    coefficients: Floats
    covariance: Floats
    deviations: Deviations
    noise: Deviations
    variance_center: float
    variance_spread: float
    square_mean: float
    square_spread: float
    unchanged_limit: float
    unchanged_share: float
    effective: float
    people: int
    rows: int

    @classmethod
    def of(cls, view: View) -> Self:
        """Fit the model on the forget rows of a view, the rows of the left-out people."""
        controls = Fit.of(view.controls, view.controls.change)
        shift = view.forget
        people = People.of(shift.users)
        own = shift.change - shift.features @ controls.coefficients
        fit = Fit.of(shift, own)
        limit = UNCHANGED * float(np.sqrt(people.means(np.square(own)).mean()))
        squares = limited_squares(
            people.means(own - shift.features @ fit.coefficients),
            fit.deviations.of_mean(people.rows),
        )
        center, spread = _log_variances(people, own, fit.deviations.row)
        return cls(
            coefficients=fit.coefficients,
            covariance=fit.covariance + controls.covariance,
            deviations=fit.deviations,
            noise=controls.deviations,
            variance_center=center,
            variance_spread=spread,
            square_mean=float(squares.mean()),
            square_spread=float(squares.std(ddof=1)),
            unchanged_limit=limit,
            unchanged_share=float(people.means((np.abs(own) < limit).astype(np.float64)).mean()),
            effective=fit.effective,
            people=len(people.users),
            rows=len(shift.users),
        )

    def deviations_with(self, noise: Deviations) -> Deviations:
        """Return τ and σ of a comparison whose controls have this seed noise.

        Seeds differ in how far apart they are. Noise beyond that of the shadow model is added; less
        noise is not subtracted, because a candidate could have it on purpose.
        """
        return Deviations(
            person=_with_excess(self.deviations.person, self.noise.person, noise.person),
            row=_with_excess(self.deviations.row, self.noise.row, noise.row),
        )

    def quiet_ratio(self, row: float) -> float:
        """Return the logarithm of the row variance without seed noise over row²."""
        quiet = self.deviations.row**2 - self.noise.row**2
        least = LEAST_QUIET * self.deviations.row**2
        return math.log(max(quiet, least) / row**2)

    def values(self) -> dict[str, Any]:
        """Return JSON values without nesting below lists."""
        return {
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.ravel().tolist(),
            "person_deviation": self.deviations.person,
            "row_deviation": self.deviations.row,
            "noise_person_deviation": self.noise.person,
            "noise_row_deviation": self.noise.row,
            "variance_center": self.variance_center,
            "variance_spread": self.variance_spread,
            "square_mean": self.square_mean,
            "square_spread": self.square_spread,
            "unchanged_limit": self.unchanged_limit,
            "unchanged_share": self.unchanged_share,
            "effective_people": self.effective,
            "people": self.people,
            "rows": self.rows,
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the model; raises KeyError, TypeError or ValueError for other values."""
        coefficients = np.asarray(values["coefficients"], dtype=np.float64)
        size = len(coefficients)
        return cls(
            coefficients=coefficients,
            covariance=np.asarray(values["covariance"], dtype=np.float64).reshape(size, size),
            deviations=Deviations(
                person=float(values["person_deviation"]), row=float(values["row_deviation"])
            ),
            noise=Deviations(
                person=float(values["noise_person_deviation"]),
                row=float(values["noise_row_deviation"]),
            ),
            variance_center=float(values["variance_center"]),
            variance_spread=float(values["variance_spread"]),
            square_mean=float(values["square_mean"]),
            square_spread=float(values["square_spread"]),
            unchanged_limit=float(values["unchanged_limit"]),
            unchanged_share=float(values["unchanged_share"]),
            effective=float(values["effective_people"]),
            people=int(values["people"]),
            rows=int(values["rows"]),
        )

    @property
    def is_finite(self) -> bool:
        """Return whether every parameter is a finite number."""
        scalars = [value for value in self.values().values() if not isinstance(value, list)]
        return bool(
            np.isfinite(scalars).all()
            and np.isfinite(self.coefficients).all()
            and np.isfinite(self.covariance).all()
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


def _log_variances(people: People, own: Floats, row: float) -> tuple[float, float]:
    """Return mean and deviation over people; the sampling variance of a logarithm is 2 / df."""
    enough = people.rows >= MINIMUM_VARIANCE_ROWS
    if enough.sum() < 2 or row <= 0:  # noqa: PLR2004 -- a deviation needs two people
        return 0.0, 0.0
    ratios = log_variance_ratios(people, own, row)[enough]
    sampling = float((2 / (people.rows[enough] - 1)).mean())
    return float(ratios.mean()), math.sqrt(max(float(ratios.var(ddof=1)) - sampling, 0.0))


def _with_excess(deviation: float, noise: float, own_noise: float) -> float:
    return math.sqrt(deviation**2 + max(0.0, own_noise**2 - noise**2))
