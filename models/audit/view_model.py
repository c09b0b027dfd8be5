"""Fit and store the model of one view and kind of row, as parameters without values of people.

`models.audit.person_model` states the model. A release's manifest stores the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from models.audit.person_model import (
    Deviations,
    Fit,
    People,
    PersonVariance,
    limited_squares,
    log_variance_ratios,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.evidence import View

    Floats = NDArray[np.float64]

#: Variances of fewer rows of a person have too skewed logarithms.
MINIMUM_VARIANCE_ROWS: Final = 5
#: A row is unchanged below this share of the root mean square change of rows left out.
UNCHANGED: Final = 0.05
#: Least share of the row variance that is not seed noise.
LEAST_QUIET: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewModel:
    """The fitted model of one view and kind of row, as stored in a release's manifest.

    - `noise`: τ and σ of the control rows.
    - `variance_center`, `variance_spread`: mean and standard deviation over people of the logarithm
      of their row variance over σ², the latter beyond its sampling error.
    - `person_variance`: the variance over people by their rows; `person_variance_mean` is its mean
      over the left-out people.
    - `square_mean`, `square_spread`: mean and standard deviation over people of their squared
      standardized residuals (`limited_squares`), with `person_variance` and σ.
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
    person_variance: PersonVariance
    person_variance_mean: float
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
        residuals = people.means(own - shift.features @ fit.coefficients)
        row = fit.deviations.row
        variance = PersonVariance.of(np.square(residuals), people.rows, row)
        squares = limited_squares(residuals, variance.at(people.rows) + row**2 / people.rows)
        center, spread = _log_variances(people, own, row)
        return cls(
            coefficients=fit.coefficients,
            covariance=fit.covariance + controls.covariance,
            deviations=fit.deviations,
            noise=controls.deviations,
            variance_center=center,
            variance_spread=spread,
            person_variance=variance,
            person_variance_mean=float(variance.at(people.rows).mean()),
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

    def memorized_variance(self) -> tuple[float, float]:
        """Return the mean row variance of people without seed noise, and its standard error.

        The error is that of two mean variances over people: of the left-out people, and of the
        controls, which are as many or more.
        """
        spread = self.variance_spread**2
        with_noise = self.deviations.row**2 * math.exp(self.variance_center + spread / 2)
        noise = self.noise.row**2
        sampling = 2 * self.people / self.rows
        error = math.sqrt((spread + sampling) / self.effective) * math.hypot(with_noise, noise)
        return max(with_noise - noise, 0.0), error

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
            "person_variance_many": self.person_variance.many,
            "person_variance_by_row": self.person_variance.by_row,
            "person_variance_most": self.person_variance.most,
            "person_variance_mean": self.person_variance_mean,
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
            person_variance=PersonVariance(
                many=float(values["person_variance_many"]),
                by_row=float(values["person_variance_by_row"]),
                most=float(values["person_variance_most"]),
            ),
            person_variance_mean=float(values["person_variance_mean"]),
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
