"""Fit how much of people's ratings a release memorizes, on the people whom its shadow left out.

Leaving people out changes the margin m of a sample in two ways. The rows of items return toward
their initial values (`models.recommender.returned_rows`). Beyond that, the answer no longer follows
residuals r = y − σ(m), either those of the person's samples with a similar history, or that of the
sample itself:

    m_shadow − m_release = returned − c · S(r) + noise    or    returned − a · r + noise

S is `models.data.shared_history.shared_history_sums`. Models that see each sample once have the
first form; models that see it many times can have the second. Per kind of row:

- *The form* is the one that explains more by least squares with a positive coefficient. The noise
  of seeds in the release's margins is in both sides of the equation. The residuals are therefore
  those of the mean of both models' margins, with which the noise of their difference is
  uncorrelated.
- *The coefficient* is solved so that the margins have the shadow's mean loss, with an error that
  is clustered by person. A coefficient by least squares is the same on average, but varies twice as
  much from seed to seed (docs/methods.md), because seeds shift all margins more than they change
  the mean loss.

Whether the change brings answers nearer to the shadow's is tested on the margins themselves. Two
trained models also differ in ways that all people share, such as the fewer steps of the shadow. The
fit can explain these as well, and people's errors do not contain them. The change must therefore
bring answers nearer than the same coefficients do on control rows, which neither model saw.

A release's manifest stores a `Memorization` per kind. It is all that `e2urec-fast` needs to know of
a data set, and the evidence that the method helps for rows of the kind. The term is that of Feldman
(arXiv 1906.05271): the change of an answer when its example is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from models.audit.person_calibration import MINIMUM_PEOPLE
from models.audit.person_model import People, effective_number
from models.data.forget_split import KINDS
from models.data.metrics import log_losses
from models.data.shared_history import shared_history_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.evidence import Answers
    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples

    Floats = NDArray[np.float64]

#: Confidence with which unlearning must bring answers nearer to the shadow's.
CONFIDENCE: Final = 0.95
#: Maximum of the coefficient, as a multiple of the one by least squares. Beyond it, the shadow is
#: worse in general.
MAX_FACTOR: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorization:
    """What leaving out rows of one kind changes, as stored in a release's manifest.

    - `own`, `history`: the coefficients a and c, of which one is 0. `error`: the relative standard
      error of the other.
    - `gain`: the share of the mean squared difference between release and shadow that unlearning
      removes, seed noise included, so that it stays far below 1. `gain_error`: its standard error.
    - `control_gain`, `control_error`: the same for the coefficients on control rows; None with too
      few people in the control rows and in manifests of earlier versions.
    - `people`: the effective number of left-out people.
    """

    own: float
    history: float
    error: float
    gain: float
    gain_error: float
    people: float
    control_gain: float | None = None
    control_error: float | None = None

    @property
    def helps(self) -> bool:
        """Return whether unlearning surely brings the answers nearer to those of retraining.

        The gain must be surely positive, and surely larger than that on control rows.
        """
        if self.control_gain is None or self.control_error is None or self.people <= 1:
            return False
        quantile = float(stats.t.ppf(CONFIDENCE, self.people - 1))
        excess, error = (
            self.gain - self.control_gain,
            math.hypot(self.gain_error, self.control_error),
        )
        return (
            math.isfinite(excess)
            and self.gain > quantile * self.gain_error
            and excess > quantile * error
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlRows:
    """[C] samples that neither the release nor the shadow saw, and the answers of both."""

    samples: Samples
    answers: Answers

    def gain(self, coefficients: Floats) -> tuple[float, float] | tuple[None, None]:
        """Return the gain of the [2] coefficients without returned item rows, and its error.

        Two models that differ in noise alone have no positive gain on average; a positive gain is
        what all people share. None with too few people.
        """
        people, answers = People.of(self.answers.users), self.answers
        if len(people.users) < MINIMUM_PEOPLE:
            return None, None
        residuals = residuals_of(self.samples, (answers.old + answers.new) / 2)
        return _gain(people, answers.new - answers.old, -residuals @ coefficients)


def residuals_of(samples: Samples, margins: Floats) -> Floats:
    """Return [M, 2]: r and S(r) of the samples for their [M] margins."""
    own = samples.label.astype(np.float64) - expit(margins)
    return np.column_stack([own, shared_history_sums(samples, own)])


def fit_memorization(
    split: ForgetSplit, answers: Answers, returned: Floats, controls: ControlRows
) -> dict[str, Memorization]:
    """Fit the memorization of each kind of row of which enough people were left out.

    The errors of fewer people are not known. With fewer people in the control rows, nothing is
    shown to help.

    `split` is that of the shadow, `answers` are those of the release (old) and of the shadow
    (new) on its forget rows, `returned` [F] are the changes of the margins by `returned_rows`.
    """
    residuals = residuals_of(split.forget, answers.old)
    noiseless = residuals_of(split.forget, (answers.old + answers.new) / 2)
    memorization = {}
    for index, kind in enumerate(KINDS):
        rows = answers.kinds == index
        people = People.of(answers.users[rows])
        if len(people.users) < MINIMUM_PEOPLE:
            continue
        own = answers.take(rows)
        change = own.new - own.old
        ratio = _least_squares(noiseless[rows], returned[rows] - change)
        factor, error = _solve(people, own, own.old + returned[rows], residuals[rows] @ ratio)
        gain, gain_error = _gain(people, change, returned[rows] - factor * noiseless[rows] @ ratio)
        control_gain, control_error = controls.gain(factor * ratio)
        memorization[kind] = Memorization(
            own=factor * float(ratio[0]),
            history=factor * float(ratio[1]),
            error=error,
            gain=gain,
            gain_error=gain_error,
            people=effective_number(people.rows),
            control_gain=control_gain,
            control_error=control_error,
        )
    return memorization


def forgetting_change(
    split: ForgetSplit, margins: Floats, memorization: Mapping[str, Memorization]
) -> Floats:
    """Return [F]: how much the margins of the forget rows change beyond the returned item rows.

    `margins` [F] are those of the release. Rows of kinds without a memorization do not change.
    """
    coefficients = np.zeros((len(KINDS), 2))
    for index, kind in enumerate(KINDS):
        if kind in memorization:
            coefficients[index] = memorization[kind].own, memorization[kind].history
    changes = coefficients[split.forget_kind] * residuals_of(split.forget, margins)
    return -np.asarray(changes.sum(axis=1))


def _least_squares(residuals: Floats, target: Floats) -> Floats:
    """Return the [2] coefficients that explain `target` [M] best with one of [M, 2] residuals.

    The other coefficient is 0, and both are if a negative coefficient would be needed.
    """
    products = np.maximum(residuals.T @ target, 0.0)
    squares = np.square(residuals).sum(axis=0)
    explained = np.divide(products**2, squares, out=np.zeros(2), where=squares > 0)
    best = int(np.argmax(explained))
    coefficients = np.zeros(2)
    if explained[best] > 0:
        coefficients[best] = products[best] / squares[best]
    return coefficients


def _solve(
    people: People, answers: Answers, returned: Floats, direction: Floats
) -> tuple[float, float]:
    """Return the factor at which `returned` - factor * `direction` has the shadow's mean loss.

    The second value is its relative standard error: that of the difference of the losses, over the
    factor times the slope of the loss.
    """
    shadow = log_losses(answers.labels, answers.new)

    def excess(factor: float) -> Floats:
        margins = returned - factor * direction
        return np.asarray(shadow - log_losses(answers.labels, margins), np.float64)

    low, high = 0.0, MAX_FACTOR
    if excess(low).mean() <= 0:
        factor = low
    elif excess(high).mean() >= 0:
        factor = high
    else:
        factor = float(brentq(lambda value: float(excess(value).mean()), low, high))
    moved = expit(returned - factor * direction)
    slope = float(((answers.labels - moved) * direction).mean()) * factor
    spread = people.sums(excess(factor) - excess(factor).mean())
    return factor, _clustered(people, spread) / slope if slope > 0 else 0.0


def _gain(people: People, change: Floats, predicted: Floats) -> tuple[float, float]:
    """Return the share of the mean squared change [M] that `predicted` removes, and its error."""
    total = float(np.square(change).mean())
    if total <= 0:
        return 0.0, 0.0
    gains = (2 * change * predicted - np.square(predicted)) / total
    gain = float(gains.mean())
    spread = people.sums(gains - gain * np.square(change) / total)
    return gain, _clustered(people, spread)


def _clustered(people: People, sums: Floats) -> float:
    """Return the standard error of a mean over rows from [U] sums of each person's deviations."""
    effective = effective_number(people.rows)
    correction = effective / (effective - 1) if effective > 1 else math.inf
    return math.sqrt(float(np.square(sums).sum()) * correction) / float(people.rows.sum())
