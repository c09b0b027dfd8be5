"""Decide whether a release's loss increase matches that of a model that never saw the rows.

The gate reads the loss of each row, not the membership AUC. A threshold on that AUC would pass an
unchanged release three times in four. Paired differences against the holdout rows reject it.
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
    """Thresholds of the gate. Intervals have the given `confidence`."""

    confidence: float = 0.95
    #: Floor, as a share of the expected loss increase; below it the release has not forgotten.
    least_share: float = 0.25
    #: Ceiling, as a multiple of the expected loss increase; above it the release overshoots.
    most_share: float = 2.5
    #: The ceiling is at least this many standard errors above the expected loss increase, because
    #: single users differ.
    most_spreads: float = 3.0
    #: Maximum loss increase (nats) on the holdout users' rows and on the test rows.
    collateral: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean paired difference in loss (nats) and its confidence interval."""

    mean: float
    low: float
    high: float
    rows: int

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {"mean": self.mean, "interval": [self.low, self.high], "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The expected loss increase (nats) of a batch: mean, standard error, and spread over users.

    `units` is the number of users in the batch, by which the spread of the batch's mean shrinks.
    """

    mean: float
    error: float
    spread: float
    units: int


def paired_difference(old: Floats, new: Floats, confidence: float) -> Difference:
    """Return the mean of new − old over [M] losses (nats), with a t interval.

    The interval is infinite below two rows.
    """
    change = new - old
    mean = float(change.mean()) if len(change) else 0.0
    if len(change) < 2:  # noqa: PLR2004 -- a variance needs two
        return Difference(mean=mean, low=-math.inf, high=math.inf, rows=len(change))
    error = float(change.std(ddof=1)) / math.sqrt(len(change))
    width = error * float(stats.t.ppf((1 + confidence) / 2, len(change) - 1))
    return Difference(mean=mean, low=mean - width, high=mean + width, rows=len(change))


def contrast(forget: Difference, holdout: Difference) -> Difference:
    """Return the forget rows' difference less the holdout rows', with the combined interval."""
    width = math.hypot(forget.high - forget.mean, holdout.high - holdout.mean)
    mean = forget.mean - holdout.mean
    return Difference(mean=mean, low=mean - width, high=mean + width, rows=forget.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome, the reason in one sentence, and the floor and ceiling (nats) that applied."""

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
    """Decide on a release from three loss increases and the expected loss increase.

    `movement` is the forget rows' loss increase less the holdout rows'. `unchanged` is whether all
    forget rows have the same answer as before. The first rule that applies decides.
    """
    floor = config.least_share * expected.mean
    error = math.hypot(expected.error, expected.spread / math.sqrt(max(1, expected.units)))
    ceiling = max(config.most_share * expected.mean, expected.mean + config.most_spreads * error)
    # Checked first: every comparison with NaN is false, so that broken weights would pass.
    is_broken = any(math.isnan(part.mean) for part in (movement, holdout, test))
    # Also unmeasurable where the mean or its error is NaN.
    is_measurable = expected.mean > 2 * expected.error
    rules = (
        (is_broken, FAILED, "the answers are not numbers: the weights are broken"),
        (unchanged, FAILED, "no answer on the forget rows changed: nothing was unlearned"),
        (movement.low > ceiling, FAILED, "overshoot: the loss rose further than on unseen rows"),
        (
            movement.high < max(floor, 0.0),
            FAILED,
            "no movement: the loss rose less than forgetting requires",
        ),
        (holdout.low > config.collateral, FAILED, "the loss of the holdout users rose as well"),
        (test.low > config.collateral, FAILED, "the loss on the test rows rose as well"),
        (
            not is_measurable,
            INCONCLUSIVE,
            "the expected loss increase of such rows is too small to be measured",
        ),
        (movement.low <= floor, INCONCLUSIVE, "too few rows to tell movement from chance"),
        (movement.mean > ceiling, INCONCLUSIVE, "too few rows to tell forgetting from overshoot"),
        (True, PASSED, "the loss rose as on unseen rows, and on no other rows"),
    )
    outcome, reason = next((outcome, reason) for applies, outcome, reason in rules if applies)
    return Decision(outcome=outcome, reason=reason, floor=floor, ceiling=ceiling)
