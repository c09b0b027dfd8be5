"""Store what each user adds to the first stage's counts, in four bytes per rating.

A rating or like is stored as an event key, an unsigned 32-bit integer: the item index in the upper
22 bits and the time bucket in the lower 10 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.samples import LIKED_ABOVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.data.interactions import Interactions

#: The length of a time bucket in seconds: 90 days.
BUCKET_SECONDS: Final = 90 * 86_400
#: The bits of an event key for the bucket: 1,024 buckets reach to the year 2222.
BUCKET_BITS: Final = 10
MOST_BUCKETS: Final = 1 << BUCKET_BITS
#: The item indices that the remaining 22 bits can hold: about four million.
MAX_ITEMS: Final = 1 << (32 - BUCKET_BITS)


@dataclass(frozen=True, slots=True)
class Contribution:
    """A user's event keys [N] uint32: `rated` ascending (by item index), `liked` by time."""

    rated: NDArray[np.uint32]
    liked: NDArray[np.uint32]

    def rates(self, item_index: int) -> bool:
        """Return whether the user has rated the item."""
        position = int(np.searchsorted(self.rated, item_index << BUCKET_BITS))
        return position < len(self.rated) and int(self.rated[position]) >> BUCKET_BITS == item_index

    def without(self, item_index: int) -> Contribution:
        """Return the contribution without the item."""
        return Contribution(
            self.rated[item_indices_of(self.rated) != item_index],
            self.liked[item_indices_of(self.liked) != item_index],
        )


NOTHING: Final = Contribution(np.empty(0, np.uint32), np.empty(0, np.uint32))


def item_indices_of(events: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return [N] int64 item indices of event keys."""
    return (events >> BUCKET_BITS).astype(np.int64)


def buckets_of(events: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return [N] int64 time buckets of event keys."""
    return (events & (MOST_BUCKETS - 1)).astype(np.int64)


def event_keys(
    item_indices: NDArray[np.int64], timestamps: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Return [N] event keys of item indices [N] at Unix seconds [N].

    Times outside all buckets use the nearest bucket. Raises ValueError for an item index that does
    not fit.
    """
    if len(item_indices) and not (item_indices.min() >= 0 and item_indices.max() < MAX_ITEMS):
        raise ValueError(f"Item indices must be from 0 to {MAX_ITEMS - 1}.")
    bucket = np.clip(timestamps // BUCKET_SECONDS, 0, MOST_BUCKETS - 1)
    return (item_indices << BUCKET_BITS | bucket).astype(np.uint32)


def contribution_of(history: Sequence[tuple[int, float, int]]) -> Contribution:
    """Return the contribution of (item index, rating, timestamp) rows in any order.

    Raises ValueError for a repeated or invalid item index.
    """
    item_indices = np.array([event[0] for event in history], np.int64)
    timestamps = np.array([event[2] for event in history], np.int64)
    keys = event_keys(item_indices, timestamps)
    if len(np.unique(item_indices)) < len(item_indices):
        raise ValueError("A history must not contain an item index twice.")
    likes = np.array([event[1] > LIKED_ABOVE for event in history], np.bool_)
    order = np.lexsort((item_indices, timestamps))
    return Contribution(np.sort(keys), keys[order[likes[order]]])


def contributions_of(
    interactions: Interactions, excluded_users: frozenset[str]
) -> tuple[dict[str, Contribution], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int32]]:
    """Return the contributions by user id, and all event keys as arrays (rated, liked, liker).

    `liker` [N] int32 is the user index of each key in `liked`. Users in `excluded_users`, a set of
    ids, contribute nothing.
    """
    rows = interactions.sorted_rows()
    if excluded_users:
        is_excluded = [user.id in excluded_users for user in interactions.users]
        rows = rows[~np.array(is_excluded, np.bool_)[interactions.user[rows]]]
    user_indices = interactions.user[rows]
    keys = event_keys(interactions.item[rows].astype(np.int64), interactions.timestamp[rows])
    likes = interactions.rating[rows] > LIKED_ABOVE
    liked, liker = keys[likes], user_indices[likes]
    # Rows ascend by user, so sorting (user, key) as one number orders each user's keys in place.
    rated = (np.sort(user_indices.astype(np.int64) << 32 | keys) & 0xFFFF_FFFF).astype(np.uint32)
    contributions = {}
    bounds = np.arange(len(interactions.users) + 1)
    starts = np.searchsorted(user_indices, bounds).tolist()
    like_starts = np.searchsorted(liker, bounds).tolist()
    for index, user in enumerate(interactions.users):
        start, end = starts[index], starts[index + 1]
        if start < end:
            # Copy, because a view would keep the rows of forgotten users in memory.
            contributions[user.id] = Contribution(
                rated[start:end].copy(), liked[like_starts[index] : like_starts[index + 1]].copy()
            )
    return contributions, rated, liked, liker
