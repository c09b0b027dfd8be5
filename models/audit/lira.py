"""Measure membership inference calibrated per row against retrained models (LiRA).

LiRA (Carlini et al., arXiv 2112.03570), as U-LiRA applies it to unlearning (Hayes et al., arXiv
2403.01218). The functions take saved margins (logit of Yes minus logit of No).

A row's confidence in its label is log(p / (1 − p)); with two answers this is the margin, negated
for the label No. The statistic is the log-likelihood ratio of two Gaussians of one variance: "in"
with the mean of models that were trained with the row (Original), "out" with the mean of models
that were trained without the row (the references: Retrain runs and shadow models). **One statistic
for all methods**: neither distribution uses other runs of the attacked method, so the statistic
does not depend on a method's number of runs and detects memory of the rows, not the method. The
variance of a row is the mean of its own variance over the references and of the pooled variance of
all rows, because the variance over 16 to 64 references is itself uncertain by 20 to 35 %.

An AUC below .5 means overshoot; `advantage` counts both directions. A difference from the mean of
the references alone (offline LiRA) was rejected: a method that shrinks all margins had an AUC of
.38 on rows that no model was trained on.

**Control rows.** The same attack on test rows, which no model was trained on, shows which part of
an AUC is no membership.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.metrics import auc, log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Minimum number of references: a variance needs two.
LEAST_REFERENCES: Final = 2
#: Minimum variance, which keeps the ratio of identical runs finite.
LEAST_VARIANCE: Final = 1e-12
#: The 100 false positive rates of ROC curves, dense where the rates are low.
FPR_GRID: Final = np.r_[0.0, np.geomspace(1e-3, 0.1, 50)[:-1], np.linspace(0.1, 1.0, 50)]


class TooFewModelsError(ValueError):
    """The attack needs two references and an Original run of another seed. Add seeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attack:
    """The attack's success, averaged over the held-out Retrain runs.

    `auc` is .5 where members cannot be told from non-members; `advantage` is |auc − .5|. `tpr_at_1`
    and `tpr_at_5` are the true positive rates at false positive rates of at most 1 % and 5 %; `fpr`
    and `tpr` [100] are the ROC curve. `references` is the number of models of each calibration.
    """

    auc: float
    advantage: float
    tpr_at_1: float
    tpr_at_5: float
    references: int
    fpr: Floats
    tpr: Floats

    def roc(self) -> dict[str, list[float]]:
        """Return the ROC curve as JSON values."""
        return {"fpr": self.fpr.tolist(), "tpr": self.tpr.tolist()}


def confidences(margins: Floats, labels: Floats) -> Floats:
    """Return logit-scaled confidences in the label of [..., F] margins and [F] labels (0 or 1)."""
    return margins * (2 * labels - 1)


def lira(
    own: Floats,
    retrained: Floats,
    shadows: Floats,
    originals: Floats,
    labels: Floats,
    usable: NDArray[np.bool_] | None = None,
) -> Attack:
    """Attack one run: estimate whether rows were in the training data of its first release.

    `own` [F] are the attacked run's margins; `retrained` [K, F] those of Retrain runs, `originals`
    [N, F] of Original runs, both with other seeds than the attacked run; `shadows` [R, F] those of
    further retrained models (R may be 0); `labels` [F] are 0 or 1. Each Retrain run in turn is held
    out: its rows are the non-members, the attacked run's rows are the members, and the other
    Retrain runs and the shadow models are the K + R - 1 references. `usable` [K, N], if given, has
    the Original runs that may be used beside each held-out run, which are those of other seeds.

    Raises TooFewModelsError.
    """
    references = len(retrained) + len(shadows) - 1
    allowed = np.ones((len(retrained), len(originals)), bool) if usable is None else usable
    if references < LEAST_REFERENCES or not allowed.any():
        raise TooFewModelsError(TooFewModelsError.__doc__)
    attacked, outside = confidences(own, labels), confidences(retrained, labels)
    further, inside = confidences(shadows, labels), confidences(originals, labels)
    areas, curves, rates = [], [], []
    for held_out in np.flatnonzero(allowed.any(axis=1)):
        rest = np.concatenate([np.delete(outside, held_out, axis=0), further])
        scored = np.stack([attacked, outside[held_out]])
        members, non_members = _scores(scored, rest, inside[allowed[held_out]])
        fpr, tpr = roc_curve(members, non_members)
        areas.append(separation(members, non_members))
        curves.append(np.interp(FPR_GRID, fpr, tpr))
        rates.append([tpr[fpr <= share].max() for share in (0.01, 0.05)])
    area = float(np.mean(areas))
    at_1, at_5 = np.mean(rates, axis=0)
    return Attack(
        auc=area,
        advantage=abs(area - 0.5),
        tpr_at_1=float(at_1),
        tpr_at_5=float(at_5),
        references=references,
        fpr=FPR_GRID.copy(),
        tpr=np.mean(curves, axis=0),
    )


def loss_auc(own: Floats, retrained: Floats, labels: Floats) -> float:
    """Return the AUC of "the loss is low" for [F] margins against [K, F] of Retrain runs.

    This is the uncalibrated attack, for comparison.
    """
    others = log_losses(np.broadcast_to(labels, retrained.shape), retrained)
    return separation(
        -log_losses(labels, own).astype(np.float64), -others.astype(np.float64).ravel()
    )


def separation(members: Floats, non_members: Floats) -> float:
    """Return the AUC of members' scores against other scores, with ties counted half."""
    labels = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    return auc(labels, np.r_[members, non_members])


def roc_curve(members: Floats, non_members: Floats) -> tuple[Floats, Floats]:
    """Return the false and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    scores = np.r_[members, non_members]
    order = np.argsort(-scores, kind="stable")
    positive = np.r_[np.ones(len(members)), np.zeros(len(non_members))][order]
    # Equal scores have the same threshold.
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    tpr = np.cumsum(positive)[last] / len(members)
    fpr = np.cumsum(1 - positive)[last] / len(non_members)
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def _scores(rows: Floats, references: Floats, inside: Floats) -> Floats:
    """Return the [N, F] scores of [N, F] confidences: high where a row looks like a member."""
    own = references.var(axis=0, ddof=1)
    variance = np.maximum((own + own.mean()) / 2, LEAST_VARIANCE)
    out_mean, in_mean = references.mean(axis=0), inside.mean(axis=0)
    return np.asarray((in_mean - out_mean) * (rows - (in_mean + out_mean) / 2) / variance)
