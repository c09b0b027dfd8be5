"""What one person adds to the first stage's counts, in four bytes for a rating.

A rating or a like is one number, called an event key: the slot, and in the lowest bits the bucket
of time. Numbers of both together fit into 32 bits, which is what bounds slots and buckets.
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

#: Time is counted in buckets of this many seconds, about 90 days.
BUCKET_SECONDS: Final = 90 * 86_400
#: Bits of an event key that hold the bucket: 1,024 buckets reach to the year 2222.
BUCKET_BITS: Final = 10
MOST_BUCKETS: Final = 1 << BUCKET_BITS
#: What is left of 32 bits: about four million items.
MAX_ITEMS: Final = 1 << (32 - BUCKET_BITS)


@dataclass(frozen=True, slots=True)
class Contribution:
    """Event keys [N] uint32: `rated` ascending (so by slot), `liked` in order of time."""

    rated: NDArray[np.uint32]
    liked: NDArray[np.uint32]

    def rates(self, item_index: int) -> bool:
        """Return whether the person has rated this slot."""
        at = int(np.searchsorted(self.rated, item_index << BUCKET_BITS))
        return at < len(self.rated) and int(self.rated[at]) >> BUCKET_BITS == item_index

    def without(self, item_index: int) -> Contribution:
        """Return the contribution that never held this slot."""
        return Contribution(
            self.rated[item_indices_of(self.rated) != item_index],
            self.liked[item_indices_of(self.liked) != item_index],
        )


NOTHING: Final = Contribution(np.empty(0, np.uint32), np.empty(0, np.uint32))


def item_indices_of(events: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the slot of each event key."""
    return (events >> BUCKET_BITS).astype(np.int64)


def buckets_of(events: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the bucket of each event key."""
    return (events & (MOST_BUCKETS - 1)).astype(np.int64)


def event_keys(
    item_indices: NDArray[np.int64], timestamps: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Return the event keys of slots [N] at Unix seconds [N].

    A time outside of all buckets goes to the nearest. ValueError for a slot out of range.
    """
    if len(item_indices) and not (item_indices.min() >= 0 and item_indices.max() < MAX_ITEMS):
        raise ValueError(f"a history must hold every slot once, from 0 to {MAX_ITEMS - 1}")
    bucket = np.clip(timestamps // BUCKET_SECONDS, 0, MOST_BUCKETS - 1)
    return (item_indices << BUCKET_BITS | bucket).astype(np.uint32)


def contribution_of(history: Sequence[tuple[int, float, int]]) -> Contribution:
    """Return what (slot, rating, timestamp) rows in any order add; each slot only once."""
    item_index = np.array([event[0] for event in history], np.int64)
    when = np.array([event[2] for event in history], np.int64)
    keys = event_keys(item_index, when)
    if len(np.unique(item_index)) < len(item_index):
        raise ValueError("a history must hold every slot once")
    likes = np.array([event[1] > LIKED_ABOVE for event in history], np.bool_)
    order = np.lexsort((item_index, when))
    return Contribution(np.sort(keys), keys[order[likes[order]]])


def contributions_of(
    interactions: Interactions, excluded: frozenset[str]
) -> tuple[dict[str, Contribution], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int32]]:
    """Return every person's contribution, and all of them in one: rated, liked, and who liked."""
    rows = interactions.sorted_rows()
    if excluded:
        names = [one.id in excluded for one in interactions.users]
        rows = rows[~np.array(names, np.bool_)[interactions.user[rows]]]
    user = interactions.user[rows]
    keys = event_keys(interactions.item[rows].astype(np.int64), interactions.timestamp[rows])
    likes = interactions.rating[rows] > LIKED_ABOVE
    liked, liker = keys[likes], user[likes]
    # Both ascend by person, so that one sort puts every person's ratings in order of slot.
    rated = (np.sort(user.astype(np.int64) << 32 | keys) & 0xFFFF_FFFF).astype(np.uint32)
    people = {}
    bounds = np.arange(len(interactions.users) + 1)
    starts = np.searchsorted(user, bounds).tolist()
    like_starts = np.searchsorted(liker, bounds).tolist()
    for number, one in enumerate(interactions.users):
        start, end = starts[number], starts[number + 1]
        if start < end:
            # Copies, because a view would keep the whole table in memory, the forgotten with it.
            people[one.id] = Contribution(
                rated[start:end].copy(), liked[like_starts[number] : like_starts[number + 1]].copy()
            )
    return people, rated, liked, liker
