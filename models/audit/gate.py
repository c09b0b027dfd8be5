"""The gate: a release must move as one that never saw the data would have, and no further.

Works on per-row losses alone. A threshold on a membership AUC would pass a no-op three times in
four; paired differences, row by row against a cohort that was never trained on, do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scipy import stats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PASSED: Final = "passed"
FAILED: Final = "failed"
INCONCLUSIVE: Final = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Where the lines are."""

    confidence: float = 0.95
    #: A release that surely moved less than this share of the expected rise has not forgotten.
    least_share: float = 0.25
    #: One that surely moved further than this many times the expected rise has overdone it…
    most_share: float = 2.5
    #: …unless people differ so much: this many standard deviations of single people's rises.
    most_spreads: float = 3.0
    #: How far (nats) the cohort's loss or the test loss may surely rise.
    collateral: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean paired difference in loss (nats) and its confidence interval."""

    mean: float
    low: float
    high: float
    rows: int

    def figures(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"mean": self.mean, "interval": [self.low, self.high], "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a model that never saw the forget rows would show: mean rise, its error, the spread.

    `units` is the number of people in the batch: the spread of a mean over people shrinks.
    """

    mean: float
    error: float
    spread: float
    units: int


def paired_difference(old: Floats, new: Floats, confidence: float) -> Difference:
    """Return the mean of new − old over [M] rows with a t interval; infinite below two rows."""
    change = new - old
    mean = float(change.mean()) if len(change) else 0.0
    if len(change) < 2:  # noqa: PLR2004 -- a variance needs two
        return Difference(mean=mean, low=-math.inf, high=math.inf, rows=len(change))
    error = float(change.std(ddof=1)) / math.sqrt(len(change))
    step_size = error * float(stats.t.ppf((1 + confidence) / 2, len(change) - 1))
    return Difference(mean=mean, low=mean - step_size, high=mean + step_size, rows=len(change))


def contrast(forget: Difference, holdout: Difference) -> Difference:
    """Return the forget rows' change less the cohort's, with the two intervals combined."""
    step_size = math.hypot(forget.high - forget.mean, holdout.high - holdout.mean)
    mean = forget.mean - holdout.mean
    return Difference(mean=mean, low=mean - step_size, high=mean + step_size, rows=forget.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome, the reason in one sentence, and the lines it was judged by."""

    outcome: str
    reason: str
    floor: float
    ceiling: float


def decide(
    movement: Difference,
    holdout: Difference,
    test: Difference,
    expected: Expectation,
    config: GateConfig,
    *,
    unchanged: bool,
) -> Decision:
    """Decide on a release. `unchanged` says that no forget row's answer moved at all."""
    floor = config.least_share * expected.mean
    people = max(1, expected.units)
    step_size = math.hypot(expected.error, expected.spread / math.sqrt(people))
    ceiling = max(
        config.most_share * expected.mean, expected.mean + config.most_spreads * step_size
    )

    # Every comparison with a NaN is false, so that broken weights would fall through to a pass.
    measured = (movement.mean, holdout.mean, test.mean)
    # The first line that applies decides: failures come before doubts.
    lines = (
        (any(map(math.isnan, measured)), FAILED, "the answers are not numbers: the weights broke"),
        (unchanged, FAILED, "no answer about the forgotten rows changed: nothing was unlearned"),
        (
            movement.low > ceiling,
            FAILED,
            "overshoot: the rows moved further than unseen ones would",
        ),
        (
            movement.high < max(floor, 0.0),
            FAILED,
            "no movement: the rows moved less than forgetting would move them",
        ),
        (
            holdout.low > config.collateral,
            FAILED,
            "people who were never trained on lost accuracy as well",
        ),
        (test.low > config.collateral, FAILED, "recommendations for everybody else became worse"),
        (
            not expected.mean > 2 * expected.error,  # Also where either is NaN.
            INCONCLUSIVE,
            "leaving such rows out changes too little to be measured",
        ),
        (movement.low <= floor, INCONCLUSIVE, "too few rows to tell movement from chance"),
        (movement.mean > ceiling, INCONCLUSIVE, "too few rows to tell forgetting from overshoot"),
        (True, PASSED, "the rows moved as unseen rows would, and nothing else did"),
    )
    outcome, reason = next((outcome, reason) for applies, outcome, reason in lines if applies)
    return Decision(outcome=outcome, reason=reason, floor=floor, ceiling=ceiling)
