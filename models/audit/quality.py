"""Judge whether a newly trained release is better than item means, on rows that trained nothing.

Rows of one user depend on each other, so the intervals are clustered by user: the standard error is
that of the sum of each user's influence on the mean or on the AUC (Obuchowski 1997). A difference
within its interval rejects no release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from scipy import stats

from models.audit.outcomes import FAILED, PASSED
from models.data.metrics import auc_placements, item_mean_margins, log_losses, utility

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender

    Floats = NDArray[np.float64]

#: The release is accepted without a judgment.
NOT_JUDGED: Final = "not_judged"
#: Confidence of the intervals. An equally good release is rejected once in 200 trainings.
CONFIDENCE: Final = 0.99
#: With fewer users, or fewer rows of a class, a clustered interval is too narrow.
LEAST_USERS: Final = 20
LEAST_ROWS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The judgment, its reason, and the figures as JSON values."""

    outcome: str
    reason: str
    measured: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "reason": self.reason, **self.measured}


#: The judgment of weights that are not numbers.
UNUSABLE: Final = Quality(outcome=FAILED, reason="weights or answers are not finite numbers")
#: The judgment of initial weights.
UNTRAINED: Final = Quality(
    outcome=NOT_JUDGED, reason="too few rows are left to train on, so the weights are initial ones"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage:
    """The advantage over item means (positive is better), and its interval."""

    mean: float
    low: float
    high: float

    def figures(self) -> dict[str, Any]:
        return {"mean": self.mean, "interval": [self.low, self.high]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The advantages of a release over item means in AUC and in mean log loss (nats)."""

    auc: Advantage
    log_loss: Advantage

    @property
    def is_better(self) -> bool:
        return self.auc.mean > 0 or self.log_loss.mean > 0

    @property
    def is_worse(self) -> bool:
        """Return whether the release ranks worse, or answers worse without ranking better.

        The order of the answers counts most, because recommendations are ranked by it.
        """
        return self.auc.high < 0 or (self.log_loss.high < 0 and self.auc.mean <= 0)

    def figures(self) -> dict[str, Any]:
        return {"auc": self.auc.figures(), "log_loss": self.log_loss.figures()}


def has_finite_weights(recommender: Recommender) -> bool:
    """Return whether every weight of the model is a finite number."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in recommender.model.state_dict().values()
        if tensor.is_floating_point()
    )


def judge_quality(
    old: Floats, new: Floats, prepared: ForgetSplit, *, is_finite: bool = True
) -> Quality:
    """Judge a release by its [M] margins on the test rows of its own split.

    `old` has the margins of the live release. If they are not better than item means either, the
    data are too weak to reject the new release. `is_finite`: whether the weights and the answers
    are numbers. Other weights are rejected on any data.
    """
    if not is_finite:
        return UNUSABLE
    test, train = prepared.parts.test, prepared.parts.train
    labels = test.label.astype(np.float64)
    users = len(np.unique(test.user))
    counts = {"rows": len(test), "users": users}
    if users < LEAST_USERS or min((labels > 0).sum(), (labels <= 0).sum()) < LEAST_ROWS:
        reason = "too few rows to compare the release with item means"
        return Quality(outcome=NOT_JUDGED, reason=reason, measured=counts)
    baseline = item_mean_margins(train, test, len(prepared.retained.items)).astype(np.float64)
    comparison = compare(labels, new, baseline, test.user)
    measured = {
        **counts,
        "model": utility(labels, new),
        "item_mean": utility(labels, baseline),
        "advantage": comparison.figures(),
        "confidence": CONFIDENCE,
    }
    if not comparison.is_worse:
        reason = "better than item means"
        if not comparison.is_better:
            reason = "not distinguishable from item means with so few rows"
        return Quality(outcome=PASSED, reason=reason, measured=measured)
    live = compare(labels, old, baseline, test.user)
    measured |= {"live": {**utility(labels, old), "advantage": live.figures()}}
    if not live.is_better:
        reason = "worse than item means, as the live release is: the data are too weak"
        return Quality(outcome=NOT_JUDGED, reason=reason, measured=measured)
    return Quality(outcome=FAILED, reason="worse than item means", measured=measured)


def compare(
    labels: Floats, margins: Floats, baseline: Floats, users: NDArray[np.int32]
) -> Comparison:
    """Compare [M] margins with the baseline's margins on rows of these users."""
    positive = labels > 0
    ranking = auc_placements(labels, margins) - auc_placements(labels, baseline)
    auc = float(ranking[positive].mean())
    weights = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
    losses = log_losses(labels, baseline) - log_losses(labels, margins)
    log_loss = float(losses.mean())
    return Comparison(
        auc=_advantage(auc, (ranking - auc) * weights, users),
        log_loss=_advantage(log_loss, (losses - log_loss) / len(losses), users),
    )


def _advantage(mean: float, influence: Floats, users: NDArray[np.int32]) -> Advantage:
    """Return the mean with a t interval from the [M] influences of rows, clustered by user."""
    _, cluster = np.unique(users, return_inverse=True)
    sums = np.bincount(cluster, weights=influence)
    clusters = len(sums)
    error = float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()))
    width = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1))
    return Advantage(mean=mean, low=mean - width, high=mean + width)
