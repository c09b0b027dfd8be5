"""Measure predictions (AUC, accuracy, log loss) and compute two baseline predictors.

A margin is the logit of Yes minus the logit of No. All metrics take labels of 0 or 1, shape [M].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.interactions import Interactions
    from models.data.samples import Samples

    Floats = NDArray[np.floating]

#: Pseudo-counts that pull the means of items and users with few ratings towards the overall mean.
SHRINKAGE: Final = 5.0
_NEWTON_STEPS: Final = 25


def auc(labels: Floats, scores: Floats) -> float:
    """Return the area under the ROC curve, counting ties half; NaN if a class is missing."""
    positive = labels > 0
    positives = int(positive.sum())
    if positives in (0, len(labels)):
        return float("nan")
    ranks = rankdata(scores)
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


def auc_placements(labels: Floats, scores: Floats) -> Floats:
    """Return [M] the share of rows of the other class that each row is ranked correctly against.

    Ties count half. The mean over either class is the AUC. Both classes must occur.
    """
    positive = labels > 0
    ranks = rankdata(scores)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    placements = np.empty(len(labels))
    placements[positive] = (ranks[positive] - rankdata(scores[positive])) / negatives
    placements[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / positives
    return placements


def log_losses(labels: Floats, margins: Floats) -> Floats:
    """Return [M] log losses in nats; NaN for NaN margins."""
    with np.errstate(invalid="ignore"):  # The release gate already rejects weights with NaN.
        return np.logaddexp(0.0, -margins * (2 * labels - 1))


def utility(labels: Floats, margins: Floats) -> dict[str, float]:
    """Return AUC, accuracy at P = 0.5 and mean log loss in nats."""
    return {
        "auc": auc(labels, margins),
        "accuracy": float(((margins > 0) == (labels > 0)).mean()) if len(labels) else float("nan"),
        "log_loss": float(log_losses(labels, margins).mean()) if len(labels) else float("nan"),
    }


def _logit(probability: Floats) -> Floats:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


def item_mean_margins(train: Samples, test: Samples, items: int) -> Floats:
    """Return [M] margins of a predictor: the share of likes among the item's training ratings."""
    overall = float(train.label.mean())
    liked = np.bincount(train.candidate, weights=train.label, minlength=items)
    seen = np.bincount(train.candidate, minlength=items)
    return _logit((liked + SHRINKAGE * overall) / (seen + SHRINKAGE))[test.candidate]


def user_item_bias_margins(train: Samples, test: Samples, data: Interactions, bound: int) -> Floats:
    """Return [M] margins of a predictor: user bias plus item bias, scaled by a logistic fit.

    Item biases use the ratings before `bound` (Unix seconds). User biases use *all* of the user's
    ratings before the sample, which is more than the models see. The fit uses the training rows.
    """
    early = data.timestamp < bound
    overall = float(data.rating[early].mean())
    residual = data.rating[early] - overall
    count = np.bincount(data.item[early], minlength=len(data.items))
    total = np.bincount(data.item[early], weights=residual, minlength=len(data.items))
    item_bias = total / (count + SHRINKAGE)
    order = data.sorted_rows()
    user, rating = data.user[order], data.rating[order]
    remainder = rating - overall - item_bias[data.item[order]]
    sum_before = np.cumsum(remainder) - remainder
    first_row = np.searchsorted(user, user)  # The first row of the same user.
    earlier = np.arange(len(user)) - first_row
    user_bias = (sum_before - sum_before[first_row]) / (earlier + SHRINKAGE)
    pairs = zip(user.tolist(), data.item[order].tolist(), strict=True)
    bias_of = dict(zip(pairs, user_bias.tolist(), strict=True))

    def scores(samples: Samples) -> Floats:
        pairs = zip(samples.user.tolist(), samples.candidate.tolist(), strict=True)
        return np.array([bias_of[pair] for pair in pairs]) + item_bias[samples.candidate]

    slope, intercept = _fit_logistic(scores(train), train.label)
    return intercept + slope * scores(test)


def _fit_logistic(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Fit label ~ sigmoid(slope · score + intercept) by Newton's method."""
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        probability = expit(design @ weights)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design
        gradient = design.T @ (labels - probability)
        weights = weights + np.linalg.solve(curvature + 1e-6 * np.eye(2), gradient)
    return float(weights[0]), float(weights[1])
