"""Changes of pair counts that are applied when a query reads a row of the matrix.

Removing a user from every row takes milliseconds. A query reads a few rows only, so an overlay
keeps the user's likes and computes the changes of a row when the row is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.retrieval.contributions import BUCKET_BITS, buckets_of, item_indices_of
from models.retrieval.cooccurrence import WINDOW, Cooccurrence, changed_row, decayed_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.retrieval.contributions import Contribution
    from models.retrieval.cooccurrence import Neighbors


class PairChanges:
    """Likes that are subtracted from or added to a matrix. Immutable, thread-safe."""

    def __init__(
        self,
        old: Sequence[Contribution],
        new: Sequence[Contribution],
        before: PairChanges | None = None,
    ) -> None:
        """Subtract the pairs of `old` and add the pairs of `new`, after the changes `before`."""
        sequences = [contribution.liked for contribution in (*old, *new)]
        lengths = [len(liked) for liked in sequences]
        signs = [-1] * len(old) + [1] * len(new)
        liked = np.concatenate([np.empty(0, np.uint32), *sequences])
        owner = np.repeat(np.arange(len(sequences)), lengths)
        sign = np.repeat(np.array(signs, np.int32), lengths)
        if before is not None:
            owner = np.concatenate([before.owner, owner + before.owners])
            liked = np.concatenate([before.liked, liked])
            sign = np.concatenate([before.sign, sign])
        #: Event keys in order of (contribution, time), the contribution of each, and its sign.
        self.liked: NDArray[np.uint32] = liked
        self.owner: NDArray[np.int64] = owner
        self.sign: NDArray[np.int32] = sign
        #: The number of contributions.
        self.owners: int = len(sequences) + (0 if before is None else before.owners)
        #: The positions of the likes, and their items, in order of the items.
        item_indices = item_indices_of(liked)
        self._positions = np.argsort(item_indices, kind="stable")
        self._items = item_indices[self._positions]
        #: Item index → (weights of the buckets, neighbors). Filled by queries.
        self._cache: dict[int, tuple[NDArray[np.float64], Neighbors]] = {}

    def cached_rows(self) -> int:
        """Return the number of rows that queries have read."""
        return len(self._cache)

    def neighbors(
        self, pairs: Cooccurrence, item_index: int, weights: NDArray[np.float64]
    ) -> Neighbors:
        """Return the neighbors of an item, as `Cooccurrence.neighbors`, after the changes."""
        cached = self._cache.get(item_index)
        if cached is not None and (cached[0] is weights or np.array_equal(cached[0], weights)):
            return cached[1]
        start, end = np.searchsorted(self._items, [item_index, item_index + 1]).tolist()
        if start == end:
            return pairs.neighbors(item_index, weights)
        keys, changes = self._changes_at(self._positions[start:end])
        row = changed_row(pairs.row(item_index), keys, changes)
        neighbors = decayed_row(row, weights)
        self._cache[item_index] = (weights, neighbors)
        return neighbors

    def _changes_at(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Return event keys, ascending, and changes of the pairs of the likes at these positions.

        See `pairs_of`: a pair counts in the bucket of the later like.
        """
        steps = np.concatenate([np.arange(-WINDOW, 0), np.arange(1, WINDOW + 1)])
        other = positions[:, None] + steps
        inside = (other >= 0) & (other < len(self.liked))
        own = np.broadcast_to(positions[:, None], other.shape)[inside]
        other = other[inside]
        same = self.owner[own] == self.owner[other]
        own, other = own[same], other[same]
        bucket = buckets_of(self.liked[np.maximum(own, other)])
        pair_keys = item_indices_of(self.liked[other]) << BUCKET_BITS | bucket
        keys, place = np.unique(pair_keys, return_inverse=True)
        changes = np.bincount(place, self.sign[own], minlength=len(keys)).astype(np.int32)
        is_changed = changes != 0
        return keys[is_changed].astype(np.uint32), changes[is_changed]
