"""Turns interactions into samples: a history, a candidate and a label. Nothing about tokens.

Task and constants from E2URec (arXiv 2403.03536): label is rating > 3, the history is the last ten
rated items with their stars in time order, and samples with fewer than five earlier ratings are
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """M samples; K is HISTORY_LENGTH.

    `user` [M] int32 and `candidate` [M] int32 index users and items; `label` [M] float32 is 1 for
    liked; `timestamp` [M] int64 Unix seconds; `history` [M, K] int32 item slots, right-aligned,
    oldest first, -1 where absent; `history_rating` [M, K] int64 in half stars (1 to 10), 0 where
    absent; `earlier` [M] int32 counts the user's earlier ratings.
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
        """Return these samples only."""
        return replace(
            self,
            user=self.user[rows],
            candidate=self.candidate[rows],
            label=self.label[rows],
            timestamp=self.timestamp[rows],
            history=self.history[rows],
            history_rating=self.history_rating[rows],
            earlier=self.earlier[rows],
        )

    def touches_items(self, items: Collection[int]) -> NDArray[np.bool_]:
        """Return [M] bool: samples with one of `items` as candidate or in the history."""
        wanted = np.fromiter(items, dtype=np.int32)
        touched: NDArray[np.bool_] = np.isin(self.candidate, wanted)
        return touched | np.isin(self.history, wanted).any(axis=1)

    def touches_pairs(self, pairs: Collection[tuple[int, int]]) -> NDArray[np.bool_]:
        """Return [M] bool: samples whose user has one of these (user, item) pairs in them."""
        touched = np.zeros(len(self), dtype=bool)
        by_user: dict[int, list[int]] = {}
        for user, item in pairs:
            by_user.setdefault(user, []).append(item)
        for user, items in by_user.items():
            rows = np.flatnonzero(self.user == user)
            touched[rows] = self.take(rows).touches_items(items)
        return touched


def build_samples(data: Interactions) -> Samples:
    """Build every sample of `data`, in order of (user, timestamp, item).

    A sample depends on its own user's rows alone, so leaving one user out changes no other sample.
    """
    order = data.sorted_rows()
    user, item = data.user[order], data.item[order]
    rating, timestamp = data.rating[order], data.timestamp[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.empty(0, int)
    lengths = np.diff(np.r_[starts, len(user)])
    earlier = np.arange(len(user)) - np.repeat(starts, lengths)
    rows = np.flatnonzero(earlier >= MINIMUM_HISTORY)
    back = np.arange(HISTORY_LENGTH, 0, -1)
    positions = rows[:, None] - back[None, :]
    present = back[None, :] <= earlier[rows][:, None]
    safe = np.where(present, positions, 0)
    half_stars = np.rint(rating * 2).astype(np.int64)
    return Samples(
        user=user[rows],
        candidate=item[rows],
        label=(rating[rows] > LIKED_ABOVE).astype(np.float32),
        timestamp=timestamp[rows],
        history=np.where(present, item[safe], -1).astype(np.int32),
        history_rating=np.where(present, half_stars[safe], 0),
        earlier=earlier[rows].astype(np.int32),
    )
