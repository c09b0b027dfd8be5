"""Membership inference calibrated row by row against retrained models, in the style of U-LiRA.

Hayes et al., "Inexact unlearning needs more careful evaluations" (arXiv 2403.01218), after LiRA
(Carlini et al., arXiv 2112.03570). Pure functions of saved margins (logit of Yes minus logit of
No); nothing about models.

The statistic of a row is the logit-scaled confidence in its label, log(p / (1 − p)): with two
answers simply the margin, turned by the label. Over runs it is close to Gaussian.

**Pooled variance.** With the three to five runs of a benchmark, a row's own variance has two to
four degrees of freedom: likelihood ratios would be made of its errors. So the variance is pooled
over all rows, as LiRA does below 64 shadow models; from there on each row has its own. Means are
each row's own always: pulling the rows' shifts together was tried, and told originals from
retrained models no better (AUC .664 instead of .674, ml-latest-small, 3 against 4 runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.membership import membership_auc
from models.data.metrics import auc, log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: From this many runs on, each row has a variance of its own (LiRA's line).
OWN_VARIANCE_RUNS: Final = 64
#: One attacked, one held out: what is left must still have a variance.
LEAST_RETRAINED: Final = 3
#: Identical runs have no variance at all; the ratio must stay finite.
LEAST_VARIANCE: Final = 1e-12
#: Where ROC curves are drawn: fine where false accusations are rare, 100 points in all.
FPR_GRID: Final = np.r_[0.0, np.geomspace(1e-3, 0.1, 50)[:-1], np.linspace(0.1, 1.0, 50)]


class TooFewRetrainedError(ValueError):
    """The attack needs three Retrain runs besides the attacked one. Make more of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attack:
    """How well members are told from strangers, averaged over the Retrain runs held out.

    `auc` is .5 where they cannot be told apart; `advantage` is the distance from that, either way.
    `tpr_at_1` and `tpr_at_5` are the shares of members found while at most 1 % and 5 % of the
    strangers are accused; `fpr` and `tpr` [100] are the ROC curve.
    """

    auc: float
    advantage: float
    tpr_at_1: float
    tpr_at_5: float
    fpr: Floats
    tpr: Floats

    def roc(self) -> dict[str, list[float]]:
        """Return the curve as JSON values."""
        return {"fpr": self.fpr.tolist(), "tpr": self.tpr.tolist()}


def confidences(margins: Floats, labels: Floats) -> Floats:
    """Return logit-scaled confidences in the label, for [..., F] margins and [F] labels (0/1)."""
    return margins * (2 * labels - 1)


def lira(own: Floats, same: Floats, retrained: Floats, labels: Floats) -> Attack:
    """Ask of one run of a method whether the forget rows were trained on.

    `own` [F] are the attacked run's margins on the forget rows, `same` [S, F] those of other runs
    of the same method (S may be 0), `retrained` [K, F] those of Retrain runs, K ≥ 3, none of them
    the attacked one; `labels` [F] are 0 or 1. Each Retrain run in turn is held out: its rows are
    the strangers, the attacked run's are the members, and the others make the out-distribution.
    With other runs of the method the score is the log-likelihood ratio; without any it is the
    distance from the out-distribution in its standard deviations, either way. For Retrain itself
    leave `same` empty: a run must be on one side only.

    Raises TooFewRetrainedError.
    """
    if len(retrained) < LEAST_RETRAINED:
        raise TooFewRetrainedError(TooFewRetrainedError.__doc__)
    attacked = confidences(own, labels)
    inside, outside = confidences(same, labels), confidences(retrained, labels)
    areas, curves, found = [], [], []
    for held_out in range(len(outside)):
        rest = np.delete(outside, held_out, axis=0)
        members = _scores(attacked, inside, rest)
        strangers = _scores(outside[held_out], inside, rest)
        fpr, tpr = roc_curve(members, strangers)
        areas.append(separation(members, strangers))
        curves.append(np.interp(FPR_GRID, fpr, tpr))
        found.append([tpr[fpr <= share].max() for share in (0.01, 0.05)])
    area = float(np.mean(areas))
    at_1, at_5 = np.mean(found, axis=0)
    return Attack(
        auc=area,
        advantage=abs(area - 0.5),
        tpr_at_1=float(at_1),
        tpr_at_5=float(at_5),
        fpr=FPR_GRID.copy(),
        tpr=np.mean(curves, axis=0),
    )


def loss_attack(own: Floats, retrained: Floats, labels: Floats) -> dict[str, Any]:
    """Return the uncalibrated attack for comparison: "the loss is low", against [K, F] Retrain.

    The same figures as `membership_auc`: AUC, its 95 % interval over rows, and the advantage.
    """
    strangers = log_losses(np.broadcast_to(labels, retrained.shape), retrained)
    return membership_auc(
        log_losses(labels, own).astype(np.float64), strangers.astype(np.float64).ravel()
    )


def separation(members: Floats, strangers: Floats) -> float:
    """Return the AUC of "the score is high" for members against strangers, ties counted half."""
    labels = np.r_[np.ones(len(members)), np.zeros(len(strangers))]
    return auc(labels, np.r_[members, strangers])


def roc_curve(members: Floats, strangers: Floats) -> tuple[Floats, Floats]:
    """Return the false and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    scores = np.r_[members, strangers]
    order = np.argsort(-scores, kind="stable")
    positive = np.r_[np.ones(len(members)), np.zeros(len(strangers))][order]
    # Equal scores are accused together.
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    tpr = np.cumsum(positive)[last] / len(members)
    fpr = np.cumsum(1 - positive)[last] / len(strangers)
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def _scores(rows: Floats, inside: Floats, outside: Floats) -> Floats:
    """Score [F] confidences: high where the row looks trained on."""
    out_mean, out_variance = outside.mean(0), _variance(outside)
    out_count = len(outside)
    if not len(inside):
        return np.asarray(np.abs(rows - out_mean) / np.sqrt(out_variance))
    in_count = len(inside)
    # One run says nothing of its spread: Retrain's stands in.
    in_variance = _variance(inside) if in_count > 1 else out_variance
    in_mean = inside.mean(0)
    # A new run differs from a mean of n runs by its own spread and by the mean's error.
    return _log_density(rows, in_mean, in_variance * (1 + 1 / in_count)) - _log_density(
        rows, out_mean, out_variance * (1 + 1 / out_count)
    )


def _variance(runs: Floats) -> Floats:
    """Return the variance over [K, F] runs: of each row where runs are many, else of all rows."""
    own = runs.var(axis=0, ddof=1)
    chosen = own if len(runs) >= OWN_VARIANCE_RUNS else np.full_like(own, own.mean())
    return np.asarray(np.maximum(chosen, LEAST_VARIANCE))


def _log_density(values: Floats, mean: Floats, variance: Floats) -> Floats:
    return np.asarray(-0.5 * ((values - mean) ** 2 / variance + np.log(variance)))
