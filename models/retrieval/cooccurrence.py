"""Count how many users liked two items close to each other, by time bucket.

A pair counts once per user, in the bucket of the later like, if the two likes are at most WINDOW
positions apart in the user's sequence of likes. Pairs are never pruned, because pruning would
depend on other users. Counts of zero are deleted, because a zero would reveal that a forgotten user
liked the pair. A count takes eight bytes.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from models.retrieval.contributions import BUCKET_BITS, MOST_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

#: The largest distance of two likes of a pair, in positions of the user's sequence of likes.
WINDOW: Final = 20
#: A pair is a 64-bit number: an item index, and in the lower 32 bits another item's event key.
_EVENT_KEY: Final = 0xFFFF_FFFF
#: The numbers of likes and of pairs that a bulk build processes at a time.
_BUILD_LIKES: Final = 250_000
_BUILD_PAIRS: Final = 8_000_000
#: The number of decayed neighbors that are cached over all rows; 12 bytes each.
_MAX_CACHED: Final = 20_000_000


class Row(NamedTuple):
    """The neighbors of an item: event keys [N] uint32, ascending, and counts [N] int32, not 0."""

    keys: NDArray[np.uint32]
    counts: NDArray[np.int32]


NO_ROW: Final = Row(np.empty(0, np.uint32), np.empty(0, np.int32))


def pairs_of(liked: NDArray[np.uint32], owner: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the pairs of likes, in both directions, as int64 numbers.

    `liked` [N] are event keys in order of (owner, time), and `owner` [N] is the user of each like.
    Pairs consist of likes of one user, who likes an item only once.
    """
    pairs = [np.empty(0, np.int64)]
    keys = liked.astype(np.int64)
    item_index, bucket = keys >> BUCKET_BITS, keys & (MOST_BUCKETS - 1)
    for steps in range(1, min(WINDOW, len(liked) - 1) + 1):
        earlier = np.flatnonzero(owner[steps:] == owner[:-steps])
        later = earlier + steps
        earlier_key = item_index[earlier] << BUCKET_BITS | bucket[later]
        pairs += [item_index[earlier] << 32 | keys[later], item_index[later] << 32 | earlier_key]
    return np.concatenate(pairs)


#: Item indices [N] int32, ascending, and weighted counts [N] float64.
Neighbors = tuple["NDArray[np.int32]", "NDArray[np.float64]"]


class _DecayedRows:
    """Cached rows, all decayed with the same weights. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights = np.empty(0)
        self._rows: dict[int, Neighbors] = {}
        #: The number of cached neighbors.
        self.size = 0

    def copy(self) -> _DecayedRows:
        copy = _DecayedRows()
        with self._lock:
            copy._weights, copy._rows, copy.size = self._weights, dict(self._rows), self.size
        return copy

    def get(self, item_index: int, weights: NDArray[np.float64]) -> Neighbors | None:
        with self._lock:
            is_same = weights is self._weights or np.array_equal(weights, self._weights)
            return self._rows.get(item_index) if is_same else None

    def put(self, item_index: int, weights: NDArray[np.float64], neighbors: Neighbors) -> None:
        with self._lock:
            if not np.array_equal(weights, self._weights):
                self._weights, self._rows, self.size = weights, {}, 0
            if item_index in self._rows:
                return
            size = len(neighbors[0])
            while self._rows and self.size + size > _MAX_CACHED:
                self.size -= len(self._rows.pop(next(iter(self._rows)))[0])
            self._rows[item_index] = neighbors
            self.size += size

    def drop(self, item_index: int) -> None:
        with self._lock:
            if item_index in self._rows:
                self.size -= len(self._rows.pop(item_index)[0])


class Cooccurrence:
    """A sparse symmetric matrix of counts, with one row for each item that has neighbors."""

    def __init__(self) -> None:
        #: The arrays are replaced and never changed, because copies share them.
        self._rows: dict[int, Row] = {}
        self._cache = _DecayedRows()

    def copy(self) -> Cooccurrence:
        """Return a copy; later changes of one of the two do not reach the other."""
        copy = Cooccurrence()
        copy._rows, copy._cache = dict(self._rows), self._cache.copy()
        return copy

    @classmethod
    def build(cls, liked: NDArray[np.uint32], owner: NDArray[np.int32]) -> Cooccurrence:
        """Count all likes at once; `liked` and `owner` are as in `pairs_of`."""
        matrix = cls()
        chunks = [np.sort(pairs_of(*chunk)) for chunk in _chunks(liked, owner)]
        for part in _parts(chunks):
            keys, starts = _distinct(part)
            counts = np.diff(np.append(starts, len(part))).astype(np.int32)
            for item_index, start, end in _groups(keys):
                event_keys = (keys[start:end] & _EVENT_KEY).astype(np.uint32)
                matrix._rows[item_index] = Row(event_keys, counts[start:end].copy())
        return matrix

    def exchange(self, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Subtract the pairs `old` and add the pairs `new`."""
        pairs = np.concatenate([old, new])
        order = np.argsort(pairs, kind="stable")
        keys, starts = _distinct(pairs[order])
        if not len(keys):
            return
        signs = np.where(order < len(old), -1, 1)
        changes = np.add.reduceat(signs, starts).astype(np.int32)
        keys, changes = keys[changes != 0], changes[changes != 0]
        event_keys = (keys & _EVENT_KEY).astype(np.uint32)
        for item_index, start, end in _groups(keys):
            self._cache.drop(item_index)
            row = changed_row(self.row(item_index), event_keys[start:end], changes[start:end])
            if len(row.keys):
                self._rows[item_index] = row
            else:
                self._rows.pop(item_index, None)

    def row(self, item_index: int) -> Row:
        """Return the neighbors of an item, which must not be modified."""
        return self._rows.get(item_index, NO_ROW)

    def neighbors(self, item_index: int, weights: NDArray[np.float64]) -> Neighbors:
        """Return the neighbors of an item: item indices, ascending, and their weighted counts.

        `weights` has one weight per bucket. Results are cached until the row or the weights change;
        callers must not modify them.
        """
        neighbors = self._cache.get(item_index, weights)
        if neighbors is None:
            neighbors = decayed_row(self.row(item_index), weights)
            self._cache.put(item_index, weights, neighbors)
        return neighbors

    def cells(self) -> int:
        """Return the number of stored counts."""
        return sum(len(row.keys) for row in self._rows.values())

    def state(self) -> list[bytes]:
        """Return the matrix in canonical form: equal counts give equal bytes."""
        parts = [struct.pack("<q", len(self._rows))]
        for item_index, row in sorted(self._rows.items()):
            parts.append(struct.pack("<qq", item_index, len(row.keys)))
            parts += [row.keys.astype("<u4").tobytes(), row.counts.astype("<i4").tobytes()]
        return parts


def changed_row(row: Row, keys: NDArray[np.uint32], changes: NDArray[np.int32]) -> Row:
    """Return a new row with `changes` added at ascending `keys`, without counts of zero."""
    row_keys, counts = row.keys, row.counts.copy()
    at = np.searchsorted(row_keys, keys)
    exists = np.zeros(len(keys), np.bool_)
    inside = at < len(row_keys)
    exists[inside] = row_keys[at[inside]] == keys[inside]
    counts[at[exists]] += changes[exists]
    zeros = at[exists][counts[at[exists]] == 0]
    if not exists.all():
        new = ~exists
        # The positions of the zeros shift by the keys that are inserted before them.
        zeros = zeros + np.searchsorted(at[new], zeros, side="right")
        row_keys = np.insert(row_keys, at[new], keys[new])
        counts = np.insert(counts, at[new], changes[new])
    if len(zeros):
        row_keys, counts = np.delete(row_keys, zeros), np.delete(counts, zeros)
    return Row(row_keys, counts)


def decayed_row(row: Row, weights: NDArray[np.float64]) -> Neighbors:
    """Return the item indices of a row, ascending, and the sums of their weighted counts."""
    keys, counts = row
    neighbors = (keys >> BUCKET_BITS).astype(np.int32)
    starts = np.flatnonzero(np.append(len(keys) > 0, neighbors[1:] != neighbors[:-1]))
    weighted = counts * weights[keys & (MOST_BUCKETS - 1)]
    sums = np.add.reduceat(weighted, starts) if len(starts) else weighted
    return neighbors[starts], sums


def _distinct(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values of ascending keys, and the position of the first of each value."""
    starts = np.flatnonzero(np.append(len(keys) > 0, keys[1:] != keys[:-1]))
    return keys[starts], starts


def _groups(keys: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Return (item index, start, end) for each run of ascending pairs with the same first item."""
    item_indices, starts = _distinct(keys >> 32)
    ends = np.append(starts, len(keys))[1:]
    return zip(item_indices.tolist(), starts.tolist(), ends.tolist(), strict=True)


def _chunks(
    liked: NDArray[np.uint32], owner: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int32]]]:
    """Yield all likes of complete users, about _BUILD_LIKES likes at a time."""
    start = 0
    while start < len(owner):
        last = owner[min(start + _BUILD_LIKES, len(owner)) - 1]
        end = int(np.searchsorted(owner, last, side="right"))
        yield liked[start:end], owner[start:end]
        start = end


def _parts(chunks: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """Merge ascending chunks: yield all pairs of complete items, about _BUILD_PAIRS at a time."""
    chunks = [chunk for chunk in chunks if len(chunk)]
    last_item = max((int(chunk[-1]) >> 32 for chunk in chunks), default=-1)
    if last_item < 0:
        return
    first_pairs = np.arange(last_item + 2, dtype=np.int64) << 32
    bounds = np.array([np.searchsorted(chunk, first_pairs) for chunk in chunks])
    pairs_before = bounds.sum(axis=0)
    low = 0
    while low <= last_item:
        limit = pairs_before[low] + _BUILD_PAIRS
        high = int(np.searchsorted(pairs_before, limit, side="right")) - 1
        high = min(max(high, low + 1), last_item + 1)
        parts = [
            chunk[start:end]
            for chunk, start, end in zip(chunks, bounds[:, low], bounds[:, high], strict=True)
        ]
        yield np.sort(np.concatenate(parts))
        low = high
