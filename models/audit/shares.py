"""Estimate how much of the expected change a comparison shows, per person and pooled.

With the notation of `models.audit.person_model`, the observed change of person u is A_u, the mean
of a_i, and the expected change is P_u, the mean of x_i·β. The share A_u / P_u is 1 for a model that
never saw the person and 0 for a model that forgot nothing. Its standard error s_u / |P_u| contains
τ, σ (both with seed noise) and the errors of β and γ:

    s_u² = τ² + σ² / rows_u + x̄_u' (V_β + V_γ) x̄_u

τ and σ are those of the calibration, and larger where the candidate's seed noise, measured on the
control rows, is larger than the shadow model's.

The pooled share regresses A on P through the origin, with weights 1 / (τ² + σ² / rows). Its error
is the larger one of the model's error and of the error clustered by person; the errors of β and γ
are shared by all people and do not shrink with their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

from models.audit.person_model import (
    LEAST_DEVIATION,
    Fit,
    People,
    log_variance_ratios,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.audit.evidence import View
    from models.audit.person_model import Deviations
    from models.audit.view_model import ViewModel

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of the expected change with its standard error and degrees of freedom."""

    mean: float
    error: float
    freedom: float

    def __post_init__(self) -> None:
        """Give an error of zero the size of a rounding error, so that p values are defined."""
        object.__setattr__(self, "error", max(self.error, LEAST_DEVIATION))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the t interval with this confidence."""
        width = self.error * float(stdtrit(self.freedom, (1 + confidence) / 2))
        return self.mean - width, self.mean + width

    def p_below(self, limit: float) -> float:
        """Return the one-sided p value of "the share is at least `limit`"."""
        return float(stdtr(self.freedom, (self.mean - limit) / self.error))

    def p_above(self, limit: float) -> float:
        """Return the one-sided p value of "the share is at most `limit`"."""
        return float(stdtr(self.freedom, (limit - self.mean) / self.error))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonShares:
    """The observed and expected changes of U people in one view.

    `own` [M] is the change of each row less that of the controls; `observed`, `expected` and
    `own_variances` (τ² + σ² / rows) are [U]; `mean_features` is [U, 3].

    - `row_ratios` [U]: the logarithms of each person's row variance over that of unseen people.
    - `unchanged` [U]: the numbers of rows whose change is below the model's limit.
    - `explained` [U]: the share of each person's row variance that the value before explains. A
      formula of the old answers, such as a temperature, explains nearly all.
    - `noise`: τ and σ of this comparison's control rows; `control_noise` is the variance of their
      people's mean changes over that of the shadow model, `control_people` their effective number.
    - `quiet_ratio`: the logarithm of the row variance without any seed noise, on the scale of
      `row_ratios`. Fast unlearning starts from the old weights and has little seed noise, but the
      rows of a person must differ at least as much as memorization does.
    """

    people: People
    model: ViewModel
    own: Floats
    observed: Floats
    expected: Floats
    own_variances: Floats
    mean_features: Floats
    shared_covariance: Floats
    row_ratios: Floats
    unchanged: Floats
    explained: Floats
    noise: Deviations
    control_noise: float
    control_people: float
    quiet_ratio: float
    freedom: float

    @classmethod
    def of(cls, view: View, model: ViewModel) -> PersonShares:
        """Compare the forget rows of a view with the model's prediction."""
        controls = Fit.of(view.controls, view.controls.change)
        shift = view.forget
        people, control_people = People.of(shift.users), People.of(view.controls.users)
        own = shift.change - shift.features @ controls.coefficients
        mean_features = people.means(shift.features)
        deviations = model.deviations_with(controls.deviations)
        return cls(
            people=people,
            model=model,
            own=own,
            observed=people.means(own),
            expected=mean_features @ model.coefficients,
            own_variances=deviations.of_mean(people.rows),
            mean_features=mean_features,
            shared_covariance=model.covariance + controls.covariance,
            explained=people.explained(own, shift.features[:, 1]),
            noise=controls.deviations,
            control_noise=_ratio_of_means(controls.deviations, model.noise, control_people),
            control_people=controls.effective,
            quiet_ratio=model.quiet_ratio(deviations.row),
            row_ratios=log_variance_ratios(people, own, deviations.row) - model.variance_center,
            unchanged=people.sums((np.abs(own) < model.unchanged_limit).astype(np.float64)),
            freedom=max(1.0, min(model.effective, controls.effective) - 1),
        )

    def has_usual_variance(self, ratio: float, error: float, limit: float) -> bool:
        """Return whether a log variance ratio is within `limit` errors of what is allowed."""
        low, high = self.quiet_ratio - limit * error, limit * error
        return math.isfinite(ratio) and low <= ratio <= high

    def person(self, index: int) -> Share | None:
        """Return the share of one person; None where the expected change is not measurable."""
        features = self.mean_features[index]
        prediction = _error(features, self.model.covariance)
        if not is_measurable(float(self.expected[index]), prediction):
            return None
        shared = _error(features, self.shared_covariance)
        error = math.hypot(math.sqrt(self.own_variances[index]), shared)
        return _share(float(self.observed[index]), float(self.expected[index]), error, self.freedom)

    def pooled(self) -> Share | None:
        """Return the share of all people; None where the expected change is not measurable."""
        weights = self.expected / self.own_variances
        total = float((weights * self.expected).sum())
        if total <= 0 or float(self.expected.mean()) >= 0:
            return None
        # The mean features at which the expected change is 1.
        features = weights @ self.mean_features / total
        if not is_measurable(1.0, _error(features, self.model.covariance)):
            return None
        mean = float((weights * self.observed).sum()) / total
        own = math.sqrt(float((np.square(weights) * self.own_variances).sum())) / total
        residuals = weights * (self.observed - mean * self.expected)
        count = len(weights)
        clustered = 0.0
        if count > 1:
            clustered = math.sqrt(float(np.square(residuals).sum()) * count / (count - 1)) / total
        shared = _error(features, self.shared_covariance)
        error = math.hypot(max(own, clustered), shared)
        return Share(mean=mean, error=error, freedom=self.freedom)

    def slope(self) -> Share | None:
        """Return the slope of observed on expected changes; None for fewer than three people.

        The error is made up as that of the pooled share.
        """
        count = len(self.observed)
        if count < 3:  # noqa: PLR2004 -- a slope and an intercept leave no freedom
            return None
        precision = 1 / self.own_variances
        center = float((precision * self.expected).sum() / precision.sum())
        weights = precision * (self.expected - center)
        total = float((weights * self.expected).sum())
        if total <= 0:
            return None
        mean = float((weights * self.observed).sum()) / total
        residuals = self.observed - mean * self.expected
        residuals -= float((precision * residuals).sum() / precision.sum())
        own = math.sqrt(float((np.square(weights) * self.own_variances).sum())) / total
        clustered = math.sqrt(float(np.square(weights * residuals).sum()) * count / (count - 2))
        shared = _error(weights @ self.mean_features / total, self.shared_covariance)
        error = math.hypot(max(own, clustered / total), shared)
        return Share(mean=mean, error=error, freedom=self.freedom)


def _ratio_of_means(own: Deviations, shadow: Deviations, people: People) -> float:
    least = LEAST_DEVIATION**2
    return float(own.of_mean(people.rows).mean() / max(shadow.of_mean(people.rows).mean(), least))


def is_measurable(expected: float, error: float) -> bool:
    """Return whether an expected change differs from zero by more than two standard errors."""
    return abs(expected) > 2 * error


def _share(observed: float, expected: float, error: float, freedom: float) -> Share | None:
    if expected >= 0:  # People who were left out must be less known, not better.
        return None
    return Share(mean=observed / expected, error=error / abs(expected), freedom=freedom)


def _error(features: Floats, covariance: Floats) -> float:
    return math.sqrt(max(0.0, float(features @ covariance @ features)))
