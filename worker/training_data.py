"""From frozen data, in ids, to what models train on, in indices; no weights and no files."""

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


def prepare_snapshot(snapshot: DataSnapshot, parent: Manifest) -> ForgetSplit:
    """Split by the parent's bounds."""
    return prepare_within(snapshot, TimeSplit.from_manifest(parent.extra["bounds"]))


def prepare_within(
    snapshot: DataSnapshot, bounds: TimeSplit | None, limits: RowLimits = NO_LIMITS
) -> ForgetSplit:
    """Turn ids into indices and split; without bounds, by new ones that keep to the limits."""
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
    """Return the indices of the users that are never trained on."""
    return frozenset(
        index for index, user in enumerate(snapshot.data.users) if user.id in snapshot.holdout
    )


def data_hash(prepared: ForgetSplit) -> str:
    """Return a SHA-256 over the retained rows in their canonical order."""
    data = prepared.retained
    order = data.sorted_rows()
    columns = (data.user, data.item, data.rating, data.timestamp)
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.hexdigest()
