"""How good the recommendations are: AUC, accuracy, log loss, and the two baselines to beat.

Pure functions of labels and scores (numpy); nothing about models.
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

#: Pseudo-counts that pull sparse means towards the overall one.
SHRINKAGE: Final = 5.0


def auc(labels: Floats, scores: Floats) -> float:
    """Return the area under the ROC curve, ties counted half; nan where a class is missing."""
    positive = labels > 0
    count = int(positive.sum())
    if count in (0, len(labels)):
        return float("nan")
    ranks = rankdata(scores)
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(labels) - count)))


def log_losses(labels: Floats, margins: Floats) -> Floats:
    """Return [M] log losses in nats, given margins (logit of Yes minus logit of No); nan of nan."""
    with np.errstate(invalid="ignore"):  # The gate judges broken weights; a warning adds nothing.
        return np.logaddexp(0.0, -margins * (2 * labels - 1))


def utility(labels: Floats, margins: Floats) -> dict[str, float]:
    """Return AUC, accuracy at P = 0.5 and log loss in nats."""
    return {
        "auc": auc(labels, margins),
        "accuracy": float(((margins > 0) == (labels > 0)).mean()) if len(labels) else float("nan"),
        "log_loss": float(log_losses(labels, margins).mean()) if len(labels) else float("nan"),
    }


def _logit(probability: Floats) -> Floats:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


def item_mean_margins(train: Samples, test: Samples, items: int) -> Floats:
    """Return [M] margins of the predictor "the share of training ratings of the item that like"."""
    overall = float(train.label.mean())
    liked = np.bincount(train.candidate, weights=train.label, minlength=items)
    seen = np.bincount(train.candidate, minlength=items)
    return _logit((liked + SHRINKAGE * overall) / (seen + SHRINKAGE))[test.candidate]


def user_item_bias_margins(train: Samples, test: Samples, data: Interactions, bound: int) -> Floats:
    """Return [M] margins of user + item bias.

    The item's bias comes from rows before `bound` (Unix seconds); the user's from *all* of the
    user's ratings before the sample, which is more than the model sees. A logistic scale is fitted
    on the training rows.
    """
    early = data.timestamp < bound
    overall = float(data.rating[early].mean())
    residual = data.rating[early] - overall
    count = np.bincount(data.item[early], minlength=len(data.items))
    total = np.bincount(data.item[early], weights=residual, minlength=len(data.items))
    item_bias = total / (count + SHRINKAGE)
    order = data.sorted_rows()
    user, rating = data.user[order], data.rating[order]
    left = rating - overall - item_bias[data.item[order]]
    running = np.cumsum(left) - left
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    lengths = np.diff(np.r_[starts, len(user)])
    earlier = np.arange(len(user)) - np.repeat(starts, lengths)
    user_bias = (running - np.repeat(running[starts], lengths)) / (earlier + SHRINKAGE)
    key = {
        (int(u), int(i)): float(b)
        for u, i, b in zip(user, data.item[order], user_bias, strict=True)
    }

    def scores(samples: Samples) -> Floats:
        biases = [key[int(u), int(i)] for u, i in zip(samples.user, samples.candidate, strict=True)]
        return np.array(biases) + item_bias[samples.candidate]

    slope, intercept = _fit_logistic(scores(train), train.label)
    return intercept + slope * scores(test)


def _fit_logistic(scores: Floats, labels: Floats, steps: int = 25) -> tuple[float, float]:
    """Fit label ~ sigmoid(intercept + slope · score) by Newton's method."""
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    weights = np.zeros(2)
    for _ in range(steps):
        probability = expit(design @ weights)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design
        gradient = design.T @ (labels - probability)
        weights = weights + np.linalg.solve(curvature + 1e-6 * np.eye(2), gradient)
    return float(weights[0]), float(weights[1])
