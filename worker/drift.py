"""Measure a release's drift from the exact training at the root of its lineage.

The rows are the evaluation rows that train no release and select none: test rows, and rows of
holdout users. Which of them are used depends on a hash of the row alone (`models.data.splits`), so
later releases find the same rows, although deletions have removed others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.drift import LossFigures, RowLosses, compare_with_root, loss_figures
from models.training.trainer import row_losses
from worker.training_record import TrainingRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.checkpoints.manifest import Manifest
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from worker.learner import DataSnapshot

#: Name of the figures in the manifest of an exact training, which its successors inherit.
EVALUATION: Final = "evaluation"


def evaluation_figures(recommender: Recommender, split: ForgetSplit) -> dict[str, Any]:
    """Return the aggregate figures of an exact training: `audit` (test rows) and `holdout`."""
    parts = {"audit": split.parts.test, "holdout": split.parts.holdout}
    return {
        name: loss_figures(
            RowLosses(
                users=samples.user,
                losses=row_losses(recommender, samples, split.retained).astype(np.float64),
            )
        )
        for name, samples in parts.items()
    }


def measure_drift(
    snapshot: DataSnapshot,
    parent: Manifest,
    losses: Mapping[str, RowLosses],
    largest_increase: float,
) -> dict[str, Any]:
    """Compare the losses of a release's evaluation rows with the figures that its parent inherited.

    `increase` is the larger one of both groups, None if neither can be compared. Rows of users with
    a changed rating are left out: the exact training saw other rows in their histories.
    """
    figures = parent.extra.get(EVALUATION, {})
    has_changed = _users_with_changes(snapshot, parent)
    drift: dict[str, Any] = {
        name: compare_with_root(
            LossFigures.from_manifest(figures.get(name, {})),
            rows.take(~has_changed[rows.users]),
            largest_increase,
        )
        for name, rows in losses.items()
    }
    increases = [group["increase"] for group in drift.values() if "increase" in group]
    return drift | {"increase": max(increases, default=None)}


def _users_with_changes(snapshot: DataSnapshot, parent: Manifest) -> NDArray[np.bool_]:
    """Return [U] bool: whether a rating of the user is not the one that the training saw."""
    has_changed = np.zeros(len(snapshot.data.users), dtype=bool)
    record = TrainingRecord.from_manifest(parent.extra)
    if record is not None:
        has_changed[snapshot.data.user[record.changed_rows(snapshot)]] = True
    return has_changed
