"""How often two items were liked close to each other: exact integer counts over users.

A pair counts once per person, in the time bucket of the later of the two likes, where at most
WINDOW steps of the person's own sequence of liked items lie between the two. Nothing is pruned,
because what is pruned would depend on the others, and a count that comes to zero is deleted,
because a zero would tell that somebody was here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

WINDOW: Final = 20
#: A pair as one number: the one slot, the other slot, and the bucket in the lowest bits.
_BUCKET: Final = 15
_SLOT: Final = 24
_HALF: Final = _BUCKET + _SLOT
_LOW: Final = (1 << _HALF) - 1
#: What the key of a pair has room for.
MOST_SLOTS: Final = 1 << _SLOT
MOST_BUCKETS: Final = 1 << _BUCKET
#: Liked items counted at a time in a bulk build; bounds its memory.
_BUILD_ITEMS: Final = 100_000


def pairs_of(sequence: NDArray[np.int64], bucket: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all pairs of one person's distinct slots in order of time, both ways, as keys."""
    return _pairs(sequence, bucket, np.zeros(len(sequence), np.int64))


def _pairs(
    sequence: NDArray[np.int64], bucket: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the keys of the pairs within WINDOW steps whose two ends have the same owner."""
    found = [np.empty(0, np.int64)]
    for steps in range(1, min(WINDOW, len(sequence) - 1) + 1):
        same = owner[steps:] == owner[:-steps]
        first, second = sequence[:-steps][same], sequence[steps:][same]
        later = bucket[steps:][same]
        found += [
            first << _HALF | second << _BUCKET | later,
            second << _HALF | first << _BUCKET | later,
        ]
    return np.concatenate(found)


class Cooccurrence:
    """A sparse symmetric matrix of counts: by slot, (neighbour, bucket) ascending, and counts."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @classmethod
    def build(
        cls, sequences: Sequence[NDArray[np.int64]], buckets: Sequence[NDArray[np.int64]]
    ) -> Cooccurrence:
        """Count all these people's sequences at once."""
        keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        for chunk, when in zip(_chunks(sequences), _chunks(buckets), strict=True):
            owner = np.repeat(np.arange(len(chunk)), [len(one) for one in chunk])
            found = _pairs(np.concatenate(chunk), np.concatenate(when), owner)
            more = np.unique(found, return_counts=True)
            keys, counts = _summed(np.append(keys, more[0]), np.append(counts, more[1]))
        matrix = cls()
        for slot, start, end in _groups(keys):
            matrix._rows[slot] = (keys[start:end] & _LOW, counts[start:end].copy())
        return matrix

    def exchange(self, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Take the pairs `old` out and put the pairs `new` in."""
        signs = np.concatenate([np.full(len(old), -1), np.ones(len(new), np.int64)])
        keys, changes = _summed(np.concatenate([old, new]), signs)
        for slot, start, end in _groups(keys):
            self._change_row(slot, keys[start:end] & _LOW, changes[start:end])

    def _change_row(
        self, slot: int, neighbours: NDArray[np.int64], changes: NDArray[np.int64]
    ) -> None:
        known, counts = self._rows.get(slot, _NO_ROW)
        merged, sums = _summed(np.append(known, neighbours), np.append(counts, changes))
        if len(merged):
            self._rows[slot] = (merged, sums)
        else:
            self._rows.pop(slot, None)

    def near(
        self, slots: Sequence[int], shares: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return [up to the highest slot found] how often each was liked near these slots.

        What is near a slot counts with its share, and as much as the bucket weighs.
        """
        rows = [self._rows.get(slot, _NO_ROW) for slot in slots]
        keys = np.concatenate([_NO_ROW[0], *(keys for keys, _ in rows)])
        counts = np.concatenate([_NO_ROW[1], *(counts for _, counts in rows)])
        share = np.repeat(shares, [len(keys) for keys, _ in rows])
        return np.bincount(
            keys >> _BUCKET, counts * weights[keys & (MOST_BUCKETS - 1)] * share
        ).astype(np.float64)

    def state(self) -> bytes:
        """Return the matrix in one canonical form."""
        parts = [struct.pack("<q", len(self._rows))]
        for slot, (neighbours, counts) in sorted(self._rows.items()):
            parts.append(struct.pack("<qq", slot, len(neighbours)))
            parts += [neighbours.astype("<i8").tobytes(), counts.astype("<i8").tobytes()]
        return b"".join(parts)


_NO_ROW: Final = (np.empty(0, np.int64), np.empty(0, np.int64))


def _summed(
    keys: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct keys, ascending, with the sums of their values; zero sums left out."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
    sums = np.add.reduceat(values[order], starts) if len(keys) else values
    kept = sums != 0
    return keys[starts][kept], sums[kept]


def _groups(keys: NDArray[np.int64]) -> Iterable[tuple[int, int, int]]:
    """Yield (slot, start, end) of the runs of ascending keys that begin with the same slot."""
    slots = keys >> _HALF
    starts = np.flatnonzero(np.diff(slots, prepend=-1))
    ends = np.append(starts, len(keys))[1:]
    return zip(slots[starts].tolist(), starts.tolist(), ends.tolist(), strict=True)


def _chunks(
    sequences: Sequence[NDArray[np.int64]],
) -> Iterable[list[NDArray[np.int64]]]:
    """Yield the sequences in lists of about _BUILD_ITEMS slots together."""
    chunk: list[NDArray[np.int64]] = []
    size = 0
    for sequence in sequences:
        chunk.append(sequence)
        size += len(sequence)
        if size >= _BUILD_ITEMS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
