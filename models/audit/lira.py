"""Measure membership inference calibrated per row against retrained models, in the style of U-LiRA.

Hayes et al., "Inexact unlearning needs more careful evaluations" (arXiv 2403.01218), after LiRA
(Carlini et al., arXiv 2112.03570). The functions take saved margins (logit of Yes minus logit of
No).

The statistic of a row is the logit-scaled confidence in its label, log(p / (1 − p)). With two
answers this is the margin, negated for the label No. Over runs it is close to Gaussian.

**Pooled variance.** With the three to five runs of a benchmark, a row's own variance has two to
four degrees of freedom, so that its errors would dominate the likelihood ratios. The variance is
therefore pooled over all rows, as LiRA does below 64 shadow models; from 64 runs on every row has
its own variance. Every row always has its own mean: shrinking the rows' shifts toward each other
did not improve telling originals from retrained models (AUC .664 instead of .674,
ml-latest-small, 3 against 4 runs).
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

#: Minimum number of runs for a variance per row (LiRA's threshold).
OWN_VARIANCE_RUNS: Final = 64
#: Minimum number of Retrain runs: one is held out, and a variance needs two.
LEAST_RETRAINED: Final = 3
#: Minimum variance, which keeps the ratio of identical runs finite.
LEAST_VARIANCE: Final = 1e-12
#: The 100 false positive rates of ROC curves, dense where the rates are low.
FPR_GRID: Final = np.r_[0.0, np.geomspace(1e-3, 0.1, 50)[:-1], np.linspace(0.1, 1.0, 50)]


class TooFewRetrainedError(ValueError):
    """The attack needs three Retrain runs besides the attacked run. Add Retrain runs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attack:
    """The attack's success, averaged over the held-out Retrain runs.

    `auc` is .5 where members cannot be told from non-members; `advantage` is |auc − .5|. `tpr_at_1`
    and `tpr_at_5` are the true positive rates at false positive rates of at most 1 % and 5 %; `fpr`
    and `tpr` [100] are the ROC curve.
    """

    auc: float
    advantage: float
    tpr_at_1: float
    tpr_at_5: float
    fpr: Floats
    tpr: Floats

    def roc(self) -> dict[str, list[float]]:
        """Return the ROC curve as JSON values."""
        return {"fpr": self.fpr.tolist(), "tpr": self.tpr.tolist()}


def confidences(margins: Floats, labels: Floats) -> Floats:
    """Return logit-scaled confidences in the label of [..., F] margins and [F] labels (0 or 1)."""
    return margins * (2 * labels - 1)


def lira(own: Floats, same: Floats, retrained: Floats, labels: Floats) -> Attack:
    """Attack one run of a method: estimate whether the forget rows were in its training data.

    `own` [F] are the attacked run's margins on the forget rows, `same` [S, F] those of other runs
    of the same method (S may be 0), `retrained` [K, F] those of Retrain runs (K ≥ 3) without the
    attacked run; `labels` [F] are 0 or 1. Each Retrain run in turn is held out: its rows are the
    non-members, the attacked run's rows are the members, and the other Retrain runs give the
    out-distribution. The score is the log-likelihood ratio or, if S = 0, the absolute distance from
    the out-distribution in standard deviations. To attack a Retrain run, leave `same` empty, so
    that no run is on both sides.

    Raises TooFewRetrainedError.
    """
    if len(retrained) < LEAST_RETRAINED:
        raise TooFewRetrainedError(TooFewRetrainedError.__doc__)
    attacked = confidences(own, labels)
    inside, outside = confidences(same, labels), confidences(retrained, labels)
    areas, curves, rates = [], [], []
    for held_out in range(len(outside)):
        rest = np.delete(outside, held_out, axis=0)
        members = _scores(attacked, inside, rest)
        non_members = _scores(outside[held_out], inside, rest)
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
        fpr=FPR_GRID.copy(),
        tpr=np.mean(curves, axis=0),
    )


def loss_attack(own: Floats, retrained: Floats, labels: Floats) -> dict[str, Any]:
    """Return `membership_auc` of [F] margins against [K, F] margins of Retrain runs.

    This is the uncalibrated attack, for comparison.
    """
    non_members = log_losses(np.broadcast_to(labels, retrained.shape), retrained)
    return membership_auc(
        log_losses(labels, own).astype(np.float64), non_members.astype(np.float64).ravel()
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


def _scores(rows: Floats, inside: Floats, outside: Floats) -> Floats:
    """Return the [F] scores of [F] confidences: high where a row looks like a member."""
    out_mean, out_variance = outside.mean(0), _variance(outside)
    out_count = len(outside)
    if not len(inside):
        return np.asarray(np.abs(rows - out_mean) / np.sqrt(out_variance))
    in_count = len(inside)
    # A single run has no variance; Retrain's variance replaces it.
    in_variance = _variance(inside) if in_count > 1 else out_variance
    in_mean = inside.mean(0)
    # A new run differs from a mean of n runs by its own variance and by that of the mean.
    return _log_density(rows, in_mean, in_variance * (1 + 1 / in_count)) - _log_density(
        rows, out_mean, out_variance * (1 + 1 / out_count)
    )


def _variance(runs: Floats) -> Floats:
    """Return the [F] variances over [K, F] runs: per row with many runs, else pooled over rows."""
    per_row = runs.var(axis=0, ddof=1)
    is_own = len(runs) >= OWN_VARIANCE_RUNS
    variance = per_row if is_own else np.full_like(per_row, per_row.mean())
    return np.asarray(np.maximum(variance, LEAST_VARIANCE))


def _log_density(values: Floats, mean: Floats, variance: Floats) -> Floats:
    return np.asarray(-0.5 * ((values - mean) ** 2 / variance + np.log(variance)))
