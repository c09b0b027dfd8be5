"""Split a data snapshot into retained samples and samples to forget, as `models` takes them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from models.data.forget_split import NO_LIMITS, ForgetIndices, split_for_forgetting
from models.data.splits import TimeSplit

if TYPE_CHECKING:
    from models.checkpoints.manifest import Manifest
    from models.data.forget_split import ForgetSplit
    from models.data.splits import RowLimits
    from worker.learner import DataSnapshot


def split_like(snapshot: DataSnapshot, release: Manifest) -> ForgetSplit:
    """Split the snapshot at the time bounds of this release."""
    return split_snapshot(snapshot, TimeSplit.from_manifest(release.extra["bounds"]))


def split_snapshot(
    snapshot: DataSnapshot, bounds: TimeSplit | None, limits: RowLimits = NO_LIMITS
) -> ForgetSplit:
    """Turn ids into indices and split the snapshot.

    Without bounds, new bounds are chosen, and the training and evaluation rows keep to `limits`.
    """
    users = {user.id: index for index, user in enumerate(snapshot.data.users)}
    items = {item.id: index for index, item in enumerate(snapshot.data.items)}
    forget = snapshot.forget
    return split_for_forgetting(
        snapshot.data,
        ForgetIndices(
            users=frozenset(users[user] for user in forget.users if user in users),
            items=frozenset(items[item] for item in forget.items if item in items),
            pairs=frozenset(
                (users[user], items[item])
                for user, item in forget.pairs
                if user in users and item in items
            ),
        ),
        holdout_indices(snapshot),
        bounds,
        limits,
    )


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
