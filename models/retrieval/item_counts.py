"""How often each item was rated and liked, in integers by bucket of time, and the same decayed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from models.retrieval.contributions import BUCKET_BITS, buckets_of, item_indices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows of a table of counts.
RATED: Final = 0
LIKED: Final = 1


class ItemCounts:
    """By bucket, ratings and likes by slot; decay is applied when asked, and kept up by slot.

    The length of the tables is capacity only and no part of the state.
    """

    def __init__(self, size: int) -> None:
        #: [2, size]: over all buckets.
        self.total = np.zeros((2, size), np.int32)
        #: By bucket, [2, size]; a bucket in which nobody has rated anything has no table.
        self._by_bucket: dict[int, NDArray[np.int32]] = {}
        self._in_bucket: dict[int, int] = {}
        self._decayed: NDArray[np.float64] | None = None
        self._weights: NDArray[np.float64] | None = None
        self._half_life = 0.0
        #: Slots whose decayed counts are out of date.
        self._stale = np.zeros(size, np.bool_)

    def reserve(self, size: int) -> None:
        """Make room for the slots below `size`."""
        have = self.total.shape[1]
        if size > have:
            wider = ((0, 0), (0, max(size, 2 * have) - have))
            self.total = np.pad(self.total, wider)
            for bucket, table in self._by_bucket.items():
                self._by_bucket[bucket] = np.pad(table, wider)
            self._stale = np.zeros(self.total.shape[1], np.bool_)
            self._decayed = None

    def add(self, rated: NDArray[np.uint32], liked: NDArray[np.uint32], sign: int) -> None:
        """Count event keys [N], in any order, once (`sign` 1) or take them out (-1)."""
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
        known, starts = np.unique(bucket[order], return_index=True)
        parts = np.split(item_indices_of(events)[order], starts[1:])
        for one, item_indices in zip(known.tolist(), parts, strict=False):
            if one not in self._by_bucket:
                self._by_bucket[one] = np.zeros_like(self.total)
            np.add.at(self._by_bucket[one][kind], item_indices, sign)
            self._in_bucket[one] = self._in_bucket.get(one, 0) + sign * len(item_indices)
            if not self._in_bucket[one]:
                # An empty table would tell that somebody was here then.
                del self._by_bucket[one], self._in_bucket[one]

    def decayed(self, half_life: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return [2, size] ratings and likes, decayed, and the weights by bucket.

        "Now" is the newest bucket that anybody has rated in, so that answers need no clock. After
        a change only the touched slots are computed anew, to the same bits as all of them.
        """
        newest = max(self._by_bucket, default=0)
        known = self._weights
        if known is None or len(known) != newest + 1 or self._half_life != half_life:
            known = np.exp2((np.arange(newest + 1) - newest) / half_life)
            self._weights, self._half_life, self._decayed = known, half_life, None
        if self._decayed is None:
            self._decayed = np.zeros(self.total.shape)
            for bucket, table in sorted(self._by_bucket.items()):
                self._decayed += known[bucket] * table
        elif self._stale.any():
            item_indices = np.flatnonzero(self._stale)
            sums = np.zeros((2, len(item_indices)))
            for bucket, table in sorted(self._by_bucket.items()):
                sums += known[bucket] * table[:, item_indices]
            self._decayed[:, item_indices] = sums
        self._stale[:] = False
        return self._decayed, known

    def state(self) -> list[bytes]:
        """Return the counts in one canonical form, without zeros."""
        parts = []
        for bucket, table in [*sorted(self._by_bucket.items()), (-1, self.total)]:
            item_indices = np.flatnonzero(table.any(axis=0))
            parts.append(struct.pack("<qq", bucket, len(item_indices)))
            parts += [
                item_indices.astype("<i4").tobytes(),
                table[:, item_indices].astype("<i4").tobytes(),
            ]
        return parts
