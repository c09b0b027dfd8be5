"""Compare the dispersion of people around a pooled share with that of an exact removal.

The dispersion is the mean of the squared standardized residuals of people (Cochran's Q, 1954, with
limited squares). A ratio of two such means has nearly an F distribution. Its degrees of freedom are
those of normal squares, fewer if the left-out people's squares spread more (Box 1953): with the
coefficient of variation c of their squares, n people have 2 n / c², which is n for normal squares.

The reference is what a candidate shows that forgets each person as much as that person was
memorized. The shadow's variance over people V(rows) contains seed noise, whose share λ is measured
on the controls. A candidate that starts from the old weights has less of it: the ratio ρ of its
noise to that of the shadow is measured on the candidate's controls and forget rows.

    variance of person u = V(rows_u) (1 − λ + λ ρ) + s² / rows_u

V is known within limits for people with few rows (`PersonVariance`); the tests of too little and of
too much dispersion use the limit that favors the candidate.

s² is the variance of the candidate's own rows around their person's mean. With the σ² of the
calibration, rows that were only made noisy would be taken for differences between people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from scipy.special import fdtr, fdtrc

from models.audit.person_model import LEAST_DEVIATION, deviations, limited_squares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.audit.shares import PersonShares
    from models.audit.view_model import ViewModel

    Floats = NDArray[np.float64]

#: Least share of the variance over people that is not seed noise.
LEAST_HETEROGENEITY: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """A dispersion over its reference (1 is expected), with both degrees of freedom."""

    ratio: float
    freedom: float
    reference_freedom: float

    @classmethod
    def least(cls, shares: PersonShares, share: float) -> Self:
        """Compare at least two people with the least dispersion of an exact removal."""
        return cls._of(shares, share, shares.model.person_variance.at(shares.people.rows))

    @classmethod
    def most(cls, shares: PersonShares, share: float) -> Self:
        """Compare at least two people with the largest dispersion of an exact removal."""
        return cls._of(shares, share, shares.model.person_variance.up_to(shares.people.rows))

    @classmethod
    def _of(cls, shares: PersonShares, share: float, by_person: Floats) -> Self:
        model, rows = shares.model, shares.people.rows
        own_row = deviations(shares.people, shares.own).row ** 2
        noise = noise_share(model)
        kept = 1 - noise + noise * own_noise(shares, own_row)
        variances = by_person * kept + own_row / rows
        calibrated = float((by_person + model.deviations.row**2 / rows).mean())
        # The errors of both parts do not become smaller as their difference does.
        controls = noise * calibrated
        error = calibrated**2 / model.effective + 2 * controls**2 / shares.control_people
        effective = float(variances.mean()) ** 2 / max(error, LEAST_DEVIATION**4)
        residuals = shares.observed - share * shares.expected
        correction = len(rows) / (len(rows) - 1)
        squares = limited_squares(residuals, variances)
        return cls(
            ratio=float(squares.mean()) * correction / max(model.square_mean, LEAST_DEVIATION),
            freedom=_freedom(model, len(rows) - 1),
            reference_freedom=_freedom(model, max(effective, 1.0)),
        )

    def p_above(self) -> float:
        """Return the one-sided p value of "the dispersion is at most that of the reference"."""
        return float(fdtrc(self.freedom, self.reference_freedom, self.ratio))

    def p_below(self) -> float:
        """Return the one-sided p value of "the dispersion is at least that of the reference"."""
        return float(fdtr(self.freedom, self.reference_freedom, self.ratio))


def noise_share(model: ViewModel) -> float:
    """Return the share of the variance over people that is seed noise of the shadow."""
    total = max(model.person_variance_mean, LEAST_DEVIATION**2)
    return min(1 - LEAST_HETEROGENEITY, model.noise.person**2 / total)


def own_noise(shares: PersonShares, own_row: float) -> float:
    """Return the candidate's variance from seed noise over that of the shadow.

    The result is the larger of two ratios: that of the controls' mean changes, and that of the
    noise of the forget rows. Rows that are as noisy as those of another seed come with its noise of
    people, too: a candidate cannot be quiet on the controls only.
    """
    model = shares.model
    row_noise = own_row - model.memorized_variance()[0]
    of_rows = min(1.0, max(0.0, row_noise) / max(model.noise.row, LEAST_DEVIATION) ** 2)
    return max(of_rows, shares.control_noise)


def _freedom(model: ViewModel, people: float) -> float:
    variation = model.square_spread / max(model.square_mean, LEAST_DEVIATION)
    return max(1.0, 2 * people / max(variation, math.sqrt(LEAST_DEVIATION)) ** 2)
