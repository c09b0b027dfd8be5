"""The first stage: proposes a few hundred items for the language model to rank.

It is exactly unlearnable. All that it knows are integer sums over users (how often an item was
rated and liked, how often two items were liked close to each other in one person's sequence), and
what one person adds depends on nobody else. So taking a person out subtracts exactly what the
person added, and leaves byte for byte the state that was built without the person.

Knows slots and users' ids; knows nothing of models, files or suppression. Not thread-safe: the
caller keeps `replace_user`, `retire` and `grow` apart from `propose` and from each other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from models.cooccurrence import MOST_BUCKETS, MOST_SLOTS, Cooccurrence, pairs_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from models.datasets.interactions import Interactions

#: Ratings above this are likes.
LIKED_ABOVE: Final = 3.0
#: How many of the last items of a history speak.
HISTORY: Final = 20
#: Time is counted in buckets of this many seconds, about 90 days.
BUCKET_SECONDS: Final = 90 * 86_400
#: After so many buckets a count weighs half; applied when asked, so that counts stay integers.
#: Long, because every shorter one found less on ml-latest-small (docs/results/first-stage).
HALF_LIFE: Final = 1000.0
#: Added to every item's likes before dividing by them, so that two likes are no certainty.
SHRINKAGE: Final = 10.0
#: What an item's popularity weighs beside what the history says of it.
POPULARITY: Final = 0.1
#: Ratings added to every item's before its share of likes is taken, half of them likes.
PRIOR: Final = 10.0


class Event(NamedTuple):
    """One of a person's ratings: 0.5 to 5 stars at Unix seconds."""

    slot: int
    rating: float
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """Slots [N] int64, best first, and their scores [N] float64."""

    slots: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Contribution:
    """All that one person adds: slots rated, ascending, and liked, by time, with their buckets."""

    rated: NDArray[np.int64]
    rated_in: NDArray[np.int64]
    liked: NDArray[np.int64]
    liked_in: NDArray[np.int64]

    def without(self, slot: int) -> _Contribution:
        rated, liked = self.rated != slot, self.liked != slot
        return _Contribution(
            self.rated[rated], self.rated_in[rated], self.liked[liked], self.liked_in[liked]
        )

    def pairs(self) -> NDArray[np.int64]:
        return pairs_of(self.liked, self.liked_in)


_NO_SLOTS: Final = np.empty(0, np.int64)
_NOTHING: Final = _Contribution(_NO_SLOTS, _NO_SLOTS, _NO_SLOTS, _NO_SLOTS)


class CandidateIndex:
    """Counts over users, and the proposals that follow from them.

    `catalogue_size` is the number of slots that may be proposed although nobody has rated them.
    """

    def __init__(self, catalogue_size: int = 0) -> None:
        self._catalogue_size = catalogue_size
        self._people: dict[str, _Contribution] = {}
        self._retired: set[int] = set()
        #: Ratings and likes by slot. The length is capacity only and no part of the state.
        self._rated = np.zeros(catalogue_size, np.int64)
        self._liked = np.zeros(catalogue_size, np.int64)
        #: The same by (bucket, slot), without zeros: by bucket, slot → [ratings, likes].
        self._by_bucket: dict[int, dict[int, list[int]]] = {}
        self._pairs = Cooccurrence()
        #: In buckets; may be set at any time, since counts know nothing of it.
        self.half_life = HALF_LIFE
        self._decayed_at: (
            tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None
        ) = None

    @classmethod
    def build(
        cls, interactions: Interactions, exclude_users: Collection[str] = ()
    ) -> CandidateIndex:
        """Count a whole table at once: the same state as one `replace_user` per person, sooner."""
        index = cls(len(interactions.items))
        excluded = frozenset(exclude_users)
        rows = interactions.sorted_rows()
        user, item = interactions.user[rows], interactions.item[rows].astype(np.int64)
        liked = interactions.rating[rows] > LIKED_ABOVE
        bucket = _buckets(interactions.timestamp[rows])
        starts = np.flatnonzero(np.diff(user, prepend=-1))
        ends = np.append(starts, len(user))[1:]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            user_id = interactions.users[user[start]].id
            if user_id in excluded:
                continue
            slots, when, likes = item[start:end], bucket[start:end], liked[start:end]
            order = np.argsort(slots)
            added = _Contribution(slots[order], when[order], slots[likes], when[likes])
            index._people[user_id] = added
            index._count(added, 1)
        known = list(index._people.values())
        index._pairs = Cooccurrence.build(
            [one.liked for one in known], [one.liked_in for one in known]
        )
        return index

    def __len__(self) -> int:
        """Return the number of people who add anything."""
        return len(self._people)

    def grow(self, catalogue_size: int) -> None:
        """Let the slots below `catalogue_size` be proposed although nobody has rated them."""
        self._catalogue_size = max(self._catalogue_size, catalogue_size)
        self._reserve(catalogue_size)

    def replace_user(self, user_id: str, history: Sequence[tuple[int, float, int]]) -> None:
        """Put (slot, rating, timestamp) rows in the place of all that the person added before.

        An empty history takes the person out. A slot may come only once (ValueError).
        """
        new = self._contribution(history)
        old = self._people.pop(user_id, _NOTHING)
        self._exchange(old, new)
        if len(new.rated):
            self._people[user_id] = new

    def retire(self, slot: int) -> None:
        """Forget the item: never propose it again, and count as though nobody had rated it."""
        self._retired.add(slot)
        for user_id, old in list(self._people.items()):
            at = int(np.searchsorted(old.rated, slot))
            if at == len(old.rated) or old.rated[at] != slot:
                continue
            new = old.without(slot)
            self._exchange(old, new)
            if len(new.rated):
                self._people[user_id] = new
            else:
                del self._people[user_id]

    def propose(
        self,
        history: Sequence[Event],
        limit: int,
        *,
        barred: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots for a person's own history, oldest first.

        `barred` slots are left out, and of `allowed`, by slot, only those that are True (slots
        beyond its end are not). A history of nothing gives what is popular.
        """
        likes = [event.slot for event in history if event.rating > LIKED_ABOVE][-HISTORY:]
        return self._best(self._popularity() + self._near(likes), limit, barred, allowed)

    def popular(
        self,
        limit: int,
        *,
        barred: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots by popularity alone: `propose` to somebody without likes."""
        return self.propose((), limit, barred=barred, allowed=allowed)

    def similar(
        self,
        slot: int,
        limit: int,
        *,
        barred: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots that are liked by those who liked this one; never itself."""
        return self._best(self._near([slot]), limit, [*barred, slot], allowed)

    def _near(self, slots: Sequence[int]) -> NDArray[np.float64]:
        """Return by slot how much it is liked together with these, for how often it is liked."""
        _, liked, weights = self._decayed()
        root = np.sqrt(liked + SHRINKAGE)
        shares = np.array([1 / root[slot] if slot < len(root) else 0.0 for slot in slots])
        near = self._pairs.near(slots, shares, weights)
        score = np.zeros(len(self._rated))
        score[: len(near)] = near / root[: len(near)]
        return score

    def _best(
        self,
        score: NDArray[np.float64],
        limit: int,
        barred: Collection[int],
        allowed: NDArray[np.bool_] | None,
    ) -> Ranked:
        """Return the best slots; of equal scores the smaller slot comes first."""
        usable = self._rated > 0
        usable[: self._catalogue_size] = True
        if allowed is not None:
            usable[: len(allowed)] &= allowed[: len(usable)]
            usable[len(allowed) :] = False
        out = np.fromiter((*self._retired, *barred), np.int64)
        usable[out[(out >= 0) & (out < len(usable))]] = False
        best = _highest(np.flatnonzero(usable), score, max(limit, 0))
        return Ranked(slots=best.astype(np.int64), scores=score[best])

    def state(self) -> bytes:
        """Return all that is known in one canonical form: equal data gives equal bytes."""
        parts = [struct.pack("<q", self._catalogue_size), _packed(sorted(self._retired))]
        for user_id, added in sorted(self._people.items()):
            name = user_id.encode()
            parts += [struct.pack("<q", len(name)), name]
            parts += [_packed(added.rated), _packed(added.rated_in)]
            parts += [_packed(added.liked), _packed(added.liked_in)]
        for bucket, counts in sorted(self._by_bucket.items()):
            parts.append(_packed([bucket]))
            parts += [_packed([slot, *both]) for slot, both in sorted(counts.items())]
        known = np.flatnonzero(self._rated)
        parts += [_packed(known), _packed(self._rated[known]), _packed(self._liked[known])]
        return b"".join([*parts, self._pairs.state()])

    def _contribution(self, history: Sequence[tuple[int, float, int]]) -> _Contribution:
        events = [event for event in history if event[0] not in self._retired]
        rows = sorted((slot, when) for slot, _, when in events)
        rated = np.array([slot for slot, _ in rows], np.int64)
        if len(rated) and rated[-1] >= MOST_SLOTS:
            raise ValueError(f"slots must be below {MOST_SLOTS}")
        if np.any(rated[1:] == rated[:-1]) or (len(rated) and rated[0] < 0):
            raise ValueError("a history must hold every slot once, and none below zero")
        likes = sorted((when, slot) for slot, rating, when in events if rating > LIKED_ABOVE)
        return _Contribution(
            rated,
            _buckets(np.array([when for _, when in rows], np.int64)),
            np.array([slot for _, slot in likes], np.int64),
            _buckets(np.array([when for when, _ in likes], np.int64)),
        )

    def _exchange(self, old: _Contribution, new: _Contribution) -> None:
        self._count(old, -1)
        self._count(new, 1)
        self._pairs.exchange(old.pairs(), new.pairs())

    def _count(self, added: _Contribution, sign: int) -> None:
        if len(added.rated):
            self._reserve(int(added.rated[-1]) + 1)
            self._rated[added.rated] += sign
            self._liked[added.liked] += sign
            self._decayed_at = None
            for kind, slots, when in (
                (0, added.rated, added.rated_in),
                (1, added.liked, added.liked_in),
            ):
                for slot, bucket in zip(slots.tolist(), when.tolist(), strict=True):
                    counts = self._by_bucket.setdefault(bucket, {})
                    counts.setdefault(slot, [0, 0])[kind] += sign
            for bucket in np.unique(added.rated_in).tolist():
                self._drop_zeros(bucket, added.rated.tolist())

    def _drop_zeros(self, bucket: int, slots: list[int]) -> None:
        """Delete what has come to zero, because a zero would tell that somebody was here."""
        counts = self._by_bucket[bucket]
        for slot in slots:
            if counts.get(slot) == [0, 0]:
                del counts[slot]
        if not counts:
            del self._by_bucket[bucket]

    def _decayed(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return ratings and likes by slot, decayed, and the weights by bucket.

        "Now" is the newest bucket that anybody has rated in, so that answers need no clock.
        """
        if self._decayed_at is None or self._decayed_at[0] != self.half_life:
            newest = max(self._by_bucket, default=0)
            weights = np.exp2((np.arange(newest + 1) - newest) / self.half_life)
            rated, liked = np.zeros(len(self._rated)), np.zeros(len(self._rated))
            for bucket, counts in sorted(self._by_bucket.items()):
                slots = np.fromiter(counts, np.int64, len(counts))
                both = np.array(list(counts.values()), np.float64) * weights[bucket]
                rated[slots] += both[:, 0]
                liked[slots] += both[:, 1]
            self._decayed_at = (self.half_life, rated, liked, weights)
        return self._decayed_at[1:]

    def _reserve(self, size: int) -> None:
        if size > len(self._rated):
            grown = max(size, 2 * len(self._rated)) - len(self._rated)
            self._rated = np.pad(self._rated, (0, grown))
            self._liked = np.pad(self._liked, (0, grown))
            self._decayed_at = None

    def _popularity(self) -> NDArray[np.float64]:
        """Return at most POPULARITY by slot: likes on a logarithmic scale, times their share."""
        rated, liked, _ = self._decayed()
        share = (liked + PRIOR / 2) / (rated + PRIOR)
        weight = np.log1p(liked) * share
        top = weight.max(initial=0.0)
        scale = POPULARITY / top if top > 0 else 0.0
        return np.asarray(scale * weight, np.float64)


def _highest(slots: NDArray[np.int64], score: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Return the `limit` ascending slots of highest score, best first; ties go by slot."""
    values = score[slots]
    if limit < len(slots):
        if limit == 0:
            return slots[:0]
        last = np.partition(values, len(values) - limit)[len(values) - limit]
        above = values > last
        # Of those that share the last place, the smaller slots are taken.
        level = np.flatnonzero(values == last)[: limit - int(above.sum())]
        kept = np.union1d(np.flatnonzero(above), level)
        slots, values = slots[kept], values[kept]
    # The sort is stable and the slots ascend, so the smaller slot wins a tie.
    return slots[np.argsort(-values, kind="stable")]


def _buckets(timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each time; what lies outside of all buckets goes to the nearest."""
    return np.clip(timestamps // BUCKET_SECONDS, 0, MOST_BUCKETS - 1)


def _packed(values: Sequence[int] | NDArray[np.int64]) -> bytes:
    """Return the number of values and the values, little-endian."""
    array = np.asarray(values, dtype="<i8")
    return struct.pack("<q", len(array)) + array.tobytes()
