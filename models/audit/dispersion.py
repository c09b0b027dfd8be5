"""Compare the dispersion of people around a pooled share with two references.

The dispersion is the mean of the squared standardized residuals of people (Cochran's Q, 1954, with
limited squares). A ratio of two such means has nearly an F distribution. Its degrees of freedom are
those of normal squares, less as the left-out people's squares spread more (Box 1953): with the
coefficient of variation c of their squares, n people have 2 n / c², and n if the squares are normal.

**Upper reference**: people of a retraining, with the variances τ² + σ² / rows of the calibration.

**Lower reference**: what every candidate must show that forgets each person as much as that person
was memorized. The shadow's τ² contains seed noise, which is measured on the controls (τ_n²). A
candidate that starts from the old weights has less of it, also measured on the controls (τ_c²):

    variance of person u ≥ (τ² − τ_n²) + τ_c² + s² / rows_u

s² is the variance of the candidate's own rows around their person's mean. With the σ² of the
calibration, rows that were only made noisy would be taken for differences between people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from scipy.special import fdtr, fdtrc

from models.audit.person_model import LEAST_DEVIATION, deviations, limited_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.audit.person_model import Deviations
    from models.audit.shares import PersonShares
    from models.audit.view_model import ViewModel

    Floats = NDArray[np.float64]

#: Least share of τ² that is not seed noise, if seed noise explains nearly all of it.
LEAST_HETEROGENEITY: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """A dispersion over its reference (1 is expected), with both degrees of freedom."""

    ratio: float
    freedom: float
    reference_freedom: float

    @classmethod
    def of(cls, shares: PersonShares, share: float) -> Self:
        """Compare at least two people around a share with an exact removal."""
        model, rows = shares.model, shares.people.rows
        own_row = deviations(shares.people, shares.own).row ** 2
        person = least_person_variance(model, shares.noise, own_row)
        variances = person + own_row / rows
        # The errors of τ², τ_n² and τ_c² do not become smaller as their difference does.
        calibrated = model.deviations.of_mean(np.array([model.rows / model.people]))[0] ** 2
        noise = shares.control_mean_variance
        error = calibrated / model.effective + 2 * noise**2 / shares.control_people
        effective = float(variances.mean()) ** 2 / max(error, LEAST_DEVIATION**4)
        return cls(
            ratio=_mean_square(shares, share, variances),
            freedom=_freedom(model, len(rows) - 1),
            reference_freedom=_freedom(model, max(effective, 1.0)),
        )

    def p_above(self) -> float:
        """Return the one-sided p value of "the dispersion is at most that of the reference"."""
        return float(fdtrc(self.freedom, self.reference_freedom, self.ratio))

    def p_below(self) -> float:
        """Return the one-sided p value of "the dispersion is at least that of the reference"."""
        return float(fdtr(self.freedom, self.reference_freedom, self.ratio))


def least_person_variance(model: ViewModel, noise: Deviations, own_row: float) -> float:
    """Return the variance over people of an exact removal.

    `noise` is the seed noise on the controls, `own_row` the variance of the forget rows around
    their person's mean. Rows that are as noisy as those of another seed come with its noise of
    people, too: a candidate cannot be quiet on the controls only.
    """
    tau = model.deviations.person**2
    heterogeneity = max(tau - model.noise.person**2, LEAST_HETEROGENEITY * tau)
    row_noise = own_row - (model.deviations.row**2 - model.noise.row**2)
    share = min(1.0, max(0.0, row_noise) / max(model.noise.row, LEAST_DEVIATION) ** 2)
    return heterogeneity + max(noise.person**2, share * model.noise.person**2)


def _mean_square(shares: PersonShares, share: float, variances: Floats) -> float:
    residuals = shares.observed - share * shares.expected
    count = len(residuals)
    mean = float(limited_squares(residuals, variances).mean()) * count / (count - 1)
    return mean / max(shares.model.square_mean, LEAST_DEVIATION)


def _freedom(model: ViewModel, people: float) -> float:
    variation = model.square_spread / max(model.square_mean, LEAST_DEVIATION)
    return max(1.0, 2 * people / max(variation, math.sqrt(LEAST_DEVIATION)) ** 2)
