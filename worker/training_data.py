"""Split a data snapshot into retained samples and samples to forget, as `models` takes them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.forget_split import (
    NO_LIMITS,
    are_forgotten,
    split_for_forgetting,
)
from models.data.splits import TimeSplit
from models.recommender.ensemble import EnsembleConfig
from models.recommender.factory import backbone_from_manifest
from models.unlearning.ensemble import has_learned_weights
from worker.learner import RequestFigures
from worker.training_record import TrainingRecord, are_unknown, forget_indices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.checkpoints.manifest import Manifest
    from models.data.forget_split import ForgetSplit
    from models.data.splits import RowLimits
    from worker.learner import DataSnapshot


def split_like(snapshot: DataSnapshot, release: Manifest) -> ForgetSplit:
    """Split the rows that the exact training of this release's lineage saw, at its time bounds.

    Histories consist of these rows only. Whether row sampling used a sample depends on that sample
    alone, so the bounds in the manifest record which samples were trained on.
    """
    record = TrainingRecord.from_manifest(release.extra)
    if record is not None:
        snapshot = snapshot.take(record.known_rows(snapshot))
    return split_snapshot(snapshot, TimeSplit.from_manifest(release.extra["bounds"]))


def split_snapshot(
    snapshot: DataSnapshot, bounds: TimeSplit | None, limits: RowLimits = NO_LIMITS
) -> ForgetSplit:
    """Turn ids into indices and split the snapshot.

    Without bounds, new bounds are chosen, and the training and evaluation rows keep to `limits`.
    """
    (forget,) = forget_indices(snapshot.data, [snapshot.forget])
    return split_for_forgetting(snapshot.data, forget, holdout_indices(snapshot), bounds, limits)


def forget_rows_by_request(
    snapshot: DataSnapshot, split: ForgetSplit
) -> dict[str, NDArray[np.bool_]]:
    """Return [F] bool per request of the batch: which forget rows of the split are its rows."""
    indices = forget_indices(snapshot.data, snapshot.requests.values())
    return {
        request_id: are_forgotten(split.forget, forget)
        for request_id, forget in zip(snapshot.requests, indices, strict=True)
    }


def figures_by_request(
    snapshot: DataSnapshot,
    split: ForgetSplit,
    parent: Manifest,
    measured: Mapping[str, dict[str, Any]],
) -> dict[str, RequestFigures]:
    """Return the figures of each request from the figures `measured` on its forget rows.

    `split` is the parent's split of the snapshot.
    """
    indices = forget_indices(snapshot.data, snapshot.requests.values())
    selects = selects_on_validation(parent)
    record = TrainingRecord.from_manifest(parent.extra)
    unknown = are_unknown(snapshot, record, snapshot.requests.values())
    return {
        request_id: RequestFigures(
            forget=measured[request_id],
            validation_rows=int(are_forgotten(split.forget_valid_samples, forget).sum())
            if selects
            else 0,
            is_unknown=is_unknown,
        )
        for request_id, forget, is_unknown in zip(snapshot.requests, indices, unknown, strict=True)
    }


def selects_on_validation(release: Manifest) -> bool:
    """Return whether validation rows selected the release's checkpoint, or weights of members."""
    backbone = backbone_from_manifest(release.content["backbone"])
    if isinstance(backbone, EnsembleConfig):  # Members keep their last state.
        return has_learned_weights(backbone)
    return bool(release.extra["recipe"]["validations"])


def holdout_indices(snapshot: DataSnapshot) -> frozenset[int]:
    """Return the indices of the holdout users."""
    return frozenset(
        index for index, user in enumerate(snapshot.data.users) if user.id in snapshot.holdout
    )


def data_hash(split: ForgetSplit) -> str:
    """Return the SHA-256 of the retained rows in canonical order, as 64 hex digits.

    Users are numbered among the users with retained rows, so that forgotten users do not count.
    """
    data = split.retained
    order = data.sorted_rows()
    _, user = np.unique(data.user, return_inverse=True)
    digest = hashlib.sha256()
    for column in (user.astype(np.int32), data.item, data.rating, data.timestamp):
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.hexdigest()
