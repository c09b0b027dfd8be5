"""Count ratings and likes of each item per time bucket, and decay the counts by age."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from models.retrieval.contributions import BUCKET_BITS, buckets_of, item_indices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The rows of a [2, size] table of counts.
RATED: Final = 0
LIKED: Final = 1


class ItemCounts:
    """Integer counts of ratings and likes by time bucket and item index.

    Decayed counts are computed on demand, and recomputed only for changed items. The tables may be
    longer than the catalog; their length is not part of the state.
    """

    def __init__(self, size: int) -> None:
        #: Counts over all buckets, [2, size].
        self.total = np.zeros((2, size), np.int32)
        #: Counts [2, size] by bucket. A bucket without ratings has no table.
        self._by_bucket: dict[int, NDArray[np.int32]] = {}
        #: The number of ratings and likes by bucket.
        self._events_in_bucket: dict[int, int] = {}
        self._decayed: NDArray[np.float64] | None = None
        self._weights: NDArray[np.float64] | None = None
        self._half_life = 0.0
        #: Whether the decayed counts of an item are out of date, [size].
        self._stale = np.zeros(size, np.bool_)
        #: Buckets whose table a copy shares.
        self._shared: set[int] = set()

    def copy(self) -> ItemCounts:
        """Return a copy; later changes of one of the two do not reach the other."""
        copy = ItemCounts(0)
        copy.total, copy._stale = self.total.copy(), self._stale.copy()
        copy._by_bucket, copy._events_in_bucket = (
            dict(self._by_bucket),
            dict(self._events_in_bucket),
        )
        copy._decayed = None if self._decayed is None else self._decayed.copy()
        copy._weights, copy._half_life = self._weights, self._half_life
        self._shared = set(self._by_bucket)
        copy._shared = set(self._by_bucket)
        return copy

    def reserve(self, size: int) -> None:
        """Extend the tables to at least `size` items."""
        capacity = self.total.shape[1]
        if size > capacity:
            padding = ((0, 0), (0, max(size, 2 * capacity) - capacity))
            self.total = np.pad(self.total, padding)
            for bucket, table in self._by_bucket.items():
                self._by_bucket[bucket] = np.pad(table, padding)
            self._shared.clear()
            self._stale = np.zeros(self.total.shape[1], np.bool_)
            self._decayed = None

    def add(self, rated: NDArray[np.uint32], liked: NDArray[np.uint32], sign: int) -> None:
        """Add (`sign` 1) or subtract (`sign` -1) event keys [N] in any order."""
        if not len(rated):
            return
        self.reserve(int(rated.max() >> BUCKET_BITS) + 1)
        for kind, events in ((RATED, rated), (LIKED, liked)):
            np.add.at(self.total[kind], item_indices_of(events), sign)
            self._add_by_bucket(kind, events, sign)
        self._stale[item_indices_of(rated)] = True

    def _add_by_bucket(self, kind: int, events: NDArray[np.uint32], sign: int) -> None:
        bucket = buckets_of(events)
        order = np.argsort(bucket, kind="stable")
        buckets, starts = np.unique(bucket[order], return_index=True)
        parts = np.split(item_indices_of(events)[order], starts[1:])
        for number, item_indices in zip(buckets.tolist(), parts, strict=False):
            if number not in self._by_bucket:
                self._by_bucket[number] = np.zeros_like(self.total)
            elif number in self._shared:
                self._by_bucket[number] = self._by_bucket[number].copy()
            self._shared.discard(number)
            np.add.at(self._by_bucket[number][kind], item_indices, sign)
            events_left = self._events_in_bucket.get(number, 0) + sign * len(item_indices)
            self._events_in_bucket[number] = events_left
            if not events_left:
                # An empty table would reveal that a forgotten user was active in the bucket.
                del self._by_bucket[number], self._events_in_bucket[number]

    def decayed(self, half_life: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return decayed ratings and likes [2, size] and the weight of each bucket.

        A count loses half of its weight in `half_life` buckets. Age is relative to the newest
        bucket with a rating, so results do not depend on a clock. After a change, only the changed
        items are recomputed, which gives the same bits as a full computation.
        """
        newest = max(self._by_bucket, default=0)
        weights = self._weights
        if weights is None or len(weights) != newest + 1 or self._half_life != half_life:
            weights = np.exp2((np.arange(newest + 1) - newest) / half_life)
            self._weights, self._half_life, self._decayed = weights, half_life, None
        if self._decayed is None:
            self._decayed = np.zeros(self.total.shape)
            for bucket, table in sorted(self._by_bucket.items()):
                self._decayed += weights[bucket] * table
        elif self._stale.any():
            item_indices = np.flatnonzero(self._stale)
            sums = np.zeros((2, len(item_indices)))
            for bucket, table in sorted(self._by_bucket.items()):
                sums += weights[bucket] * table[:, item_indices]
            self._decayed[:, item_indices] = sums
        self._stale[:] = False
        return self._decayed, weights

    def state(self) -> list[bytes]:
        """Return the counts that are not zero in canonical form: equal counts give equal bytes."""
        parts = []
        for bucket, table in [*sorted(self._by_bucket.items()), (-1, self.total)]:
            item_indices = np.flatnonzero(table.any(axis=0))
            parts.append(struct.pack("<qq", bucket, len(item_indices)))
            parts += [
                item_indices.astype("<i4").tobytes(),
                table[:, item_indices].astype("<i4").tobytes(),
            ]
        return parts
