"""How often two items were liked close to each other: exact integer counts over users.

A pair counts once per person, in the time bucket of the later of the two likes, where at most
WINDOW steps of the person's own sequence of liked items lie between the two. Nothing is pruned,
because what is pruned would depend on the others, and a count that comes to zero is deleted,
because a zero would tell that somebody was here. A cell takes eight bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from models.retrieval.contributions import BUCKET_BITS, MOST_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

WINDOW: Final = 20
#: A pair is one number: the one slot, and in the lower 32 bits the other's event key.
_LOW: Final = 0xFFFF_FFFF
#: Liked items whose pairs are made at a time, and pairs that are merged at a time, in a bulk build.
_BUILD_ITEMS: Final = 250_000
_BUILD_PAIRS: Final = 8_000_000
#: Decayed neighbours that are kept between queries, over all rows; 12 bytes each.
_KEPT: Final = 20_000_000


class _Row(NamedTuple):
    """One item's neighbours: event keys [N] uint32, ascending, and counts [N] int32, not zero."""

    keys: NDArray[np.uint32]
    counts: NDArray[np.int32]


_NO_ROW: Final = _Row(np.empty(0, np.uint32), np.empty(0, np.int32))


def pairs_of(liked: NDArray[np.uint32], owner: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the pairs, both ways, of event keys [N] in order of (owner, time).

    Only two likes of the same owner make a pair, and an owner likes a slot only once.
    """
    found = [np.empty(0, np.int64)]
    wide = liked.astype(np.int64)
    item_index, bucket = wide >> BUCKET_BITS, wide & (MOST_BUCKETS - 1)
    for steps in range(1, min(WINDOW, len(liked) - 1) + 1):
        same = np.flatnonzero(owner[steps:] == owner[:-steps])
        later = same + steps
        earlier_key = item_index[same] << BUCKET_BITS | bucket[later]
        found += [item_index[same] << 32 | wide[later], item_index[later] << 32 | earlier_key]
    return np.concatenate(found)


class Cooccurrence:
    """A sparse symmetric matrix of counts, one row of cells for each slot that has any."""

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._weights = np.empty(0)
        self._decayed: dict[int, tuple[NDArray[np.int32], NDArray[np.float64]]] = {}
        self._kept = 0

    @classmethod
    def build(cls, liked: NDArray[np.uint32], owner: NDArray[np.int32]) -> Cooccurrence:
        """Count all likes at once: event keys [N] in order of (owner, time), and the owners."""
        matrix = cls()
        chunks = [np.sort(pairs_of(*chunk)) for chunk in _chunks(liked, owner)]
        for part in _parts(chunks):
            keys, starts = _distinct(part)
            counts = np.diff(np.append(starts, len(part))).astype(np.int32)
            for item_index, start, end in _groups(keys):
                low = (keys[start:end] & _LOW).astype(np.uint32)
                matrix._rows[item_index] = _Row(low, counts[start:end].copy())
        return matrix

    def exchange(self, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Take the pairs `old` out and put the pairs `new` in."""
        pairs = np.concatenate([old, new])
        order = np.argsort(pairs, kind="stable")
        keys, starts = _distinct(pairs[order])
        if not len(keys):
            return
        signs = np.where(order < len(old), -1, 1)
        changes = np.add.reduceat(signs, starts).astype(np.int32)
        keys, changes = keys[changes != 0], changes[changes != 0]
        low = (keys & _LOW).astype(np.uint32)
        for item_index, start, end in _groups(keys):
            self._change_row(item_index, low[start:end], changes[start:end])

    def _change_row(
        self, item_index: int, keys: NDArray[np.uint32], changes: NDArray[np.int32]
    ) -> None:
        """Add changes at ascending keys; a row is copied only where cells appear or vanish."""
        self._kept -= len(self._decayed.pop(item_index, ((), ()))[0])
        if item_index not in self._rows:
            self._rows[item_index] = _Row(keys.copy(), changes.copy())
            return
        known, counts = self._rows[item_index]
        at = np.searchsorted(known, keys)
        there = np.zeros(len(keys), np.bool_)
        inside = at < len(known)
        there[inside] = known[at[inside]] == keys[inside]
        counts[at[there]] += changes[there]
        gone = at[there][counts[at[there]] == 0]
        if not there.all():
            new = ~there
            # Places of cells that go move up by the new cells that come before them.
            gone = gone + np.searchsorted(at[new], gone, side="right")
            known = np.insert(known, at[new], keys[new])
            counts = np.insert(counts, at[new], changes[new])
        if len(gone):
            known, counts = np.delete(known, gone), np.delete(counts, gone)
        if len(known):
            self._rows[item_index] = _Row(known, counts)
        else:
            del self._rows[item_index]

    def neighbors(
        self, item_index: int, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the slots liked near this one, ascending, and how often, weighted by bucket.

        The answer is kept until the row or the weights change; not to be written to.
        """
        if not np.array_equal(weights, self._weights):
            self._weights = weights
            self._decayed, self._kept = {}, 0
        if item_index not in self._decayed:
            keys, counts = self._rows.get(item_index, _NO_ROW)
            near = (keys >> BUCKET_BITS).astype(np.int32)
            starts = np.flatnonzero(near[1:] != near[:-1]) + 1
            starts = np.append(np.zeros(min(len(near), 1), np.int64), starts)
            weighted = counts * weights[keys & (MOST_BUCKETS - 1)]
            sums = np.add.reduceat(weighted, starts) if len(starts) else weighted
            while self._decayed and self._kept + len(starts) > _KEPT:
                self._kept -= len(self._decayed.pop(next(iter(self._decayed)))[0])
            self._decayed[item_index] = (near[starts], sums)
            self._kept += len(starts)
        return self._decayed[item_index]

    def cells(self) -> int:
        """Return the number of counts that are not zero."""
        return sum(len(row.keys) for row in self._rows.values())

    def state(self) -> list[bytes]:
        """Return the matrix in one canonical form."""
        parts = [struct.pack("<q", len(self._rows))]
        for item_index, row in sorted(self._rows.items()):
            parts.append(struct.pack("<qq", item_index, len(row.keys)))
            parts += [row.keys.astype("<u4").tobytes(), row.counts.astype("<i4").tobytes()]
        return parts


def _distinct(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct ones of ascending keys, and where each begins."""
    starts = np.flatnonzero(np.append(len(keys) > 0, keys[1:] != keys[:-1]))
    return keys[starts], starts


def _groups(keys: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield (slot, start, end) of the runs of ascending pairs that begin with the same slot."""
    item_indices, starts = _distinct(keys >> 32)
    ends = np.append(starts, len(keys))[1:]
    return zip(item_indices.tolist(), starts.tolist(), ends.tolist(), strict=True)


def _chunks(
    liked: NDArray[np.uint32], owner: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int32]]]:
    """Yield the likes of whole owners, about _BUILD_ITEMS likes at a time."""
    start = 0
    while start < len(owner):
        last = owner[min(start + _BUILD_ITEMS, len(owner)) - 1]
        end = int(np.searchsorted(owner, last, side="right"))
        yield liked[start:end], owner[start:end]
        start = end


def _parts(chunks: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs of several ascending chunks in order, whole slots, _BUILD_PAIRS at a time."""
    chunks = [chunk for chunk in chunks if len(chunk)]
    most = max((int(chunk[-1]) >> 32 for chunk in chunks), default=-1)
    if most < 0:
        return
    firsts = np.arange(most + 2, dtype=np.int64) << 32
    bounds = np.array([np.searchsorted(chunk, firsts) for chunk in chunks])
    before = bounds.sum(axis=0)
    low = 0
    while low <= most:
        high = int(np.searchsorted(before, before[low] + _BUILD_PAIRS, side="right")) - 1
        high = min(max(high, low + 1), most + 1)
        parts = [
            chunk[start:end]
            for chunk, start, end in zip(chunks, bounds[:, low], bounds[:, high], strict=True)
        ]
        yield np.sort(np.concatenate(parts))
        low = high
