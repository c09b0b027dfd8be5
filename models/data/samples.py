"""Build training samples (history, candidate, label) from interactions.

The task and its constants are those of E2URec (arXiv 2403.03536): the label is rating > 3, the
history holds the last ten rated items with their stars in order of time, and ratings with fewer
than five earlier ratings give no sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from models.data.interactions import Interactions

HISTORY_LENGTH: Final = 10
MINIMUM_HISTORY: Final = 5
LIKED_ABOVE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """M samples with histories of K = HISTORY_LENGTH items.

    - `user`, `candidate` [M] int32: indices of the user and of the rated item.
    - `label` [M] float32: 1 if the user liked the item, else 0.
    - `timestamp` [M] int64: Unix seconds of the rating.
    - `history` [M, K] int32: item indices, oldest first and right-aligned; -1 is padding.
    - `history_rating` [M, K] int64: half stars, 1 to 10; 0 is padding.
    - `earlier` [M] int32: number of the user's earlier ratings.
    """

    user: NDArray[np.int32]
    candidate: NDArray[np.int32]
    label: NDArray[np.float32]
    timestamp: NDArray[np.int64]
    history: NDArray[np.int32]
    history_rating: NDArray[np.int64]
    earlier: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Samples:
        """Return the selected samples."""
        return Samples(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def touches_items(self, items: Collection[int]) -> NDArray[np.bool_]:
        """Return [M] bool: whether the candidate or the history contains one of `items`."""
        item_indices = np.fromiter(items, dtype=np.int32)
        touched: NDArray[np.bool_] = np.isin(self.candidate, item_indices)
        return touched | np.isin(self.history, item_indices).any(axis=1)

    def touches_pairs(self, pairs: Collection[tuple[int, int]]) -> NDArray[np.bool_]:
        """Return [M] bool: whether a sample contains the item of one of its user's pairs.

        `pairs` are (user, item) indices.
        """
        touched = np.zeros(len(self), dtype=bool)
        items_by_user: dict[int, list[int]] = {}
        for user, item in pairs:
            items_by_user.setdefault(user, []).append(item)
        for user, items in items_by_user.items():
            rows = np.flatnonzero(self.user == user)
            touched[rows] = self.take(rows).touches_items(items)
        return touched


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` evenly spaced rows of `count` rows."""
    return np.arange(0, count, max(1, math.ceil(count / most)))


def build_samples(data: Interactions) -> Samples:
    """Build all samples of `data`, ordered by (user, timestamp, item).

    A sample depends only on the rows of its user: removing a user changes no other sample.
    """
    order = data.sorted_rows()
    user, item = data.user[order], data.item[order]
    rating, timestamp = data.rating[order], data.timestamp[order]
    earlier = np.arange(len(user)) - np.searchsorted(user, user)  # `user` is ascending.
    rows = np.flatnonzero(earlier >= MINIMUM_HISTORY)
    steps_back = np.arange(HISTORY_LENGTH, 0, -1)
    present = steps_back[None, :] <= earlier[rows][:, None]
    history_rows = np.where(present, rows[:, None] - steps_back[None, :], 0)
    half_stars = np.rint(rating * 2).astype(np.int64)
    return Samples(
        user=user[rows],
        candidate=item[rows],
        label=(rating[rows] > LIKED_ABOVE).astype(np.float32),
        timestamp=timestamp[rows],
        history=np.where(present, item[history_rows], -1).astype(np.int32),
        history_rating=np.where(present, half_stars[history_rows], 0),
        earlier=earlier[rows].astype(np.int32),
    )
