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

from models.data.samples import LIKED_ABOVE
from models.retrieval.attribute_profile import AttributeProfile
from models.retrieval.contributions import NOTHING, Contribution, contribution_of, contributions_of
from models.retrieval.cooccurrence import Cooccurrence, pairs_of
from models.retrieval.item_counts import LIKED, RATED, ItemCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.interactions import Interactions

#: How many of the last items of a history speak.
HISTORY: Final = 20
#: After so many buckets a count weighs half; applied when asked, so that counts stay integers.
#: Long, because every shorter one found less on ml-latest-small (docs/results/first-stage).
HALF_LIFE: Final = 1000.0
#: Added to every item's likes before dividing by them, so that two likes are no certainty.
SHRINKAGE: Final = 10.0
#: What an item's popularity weighs beside what the history says of it.
POPULARITY: Final = 0.1
#: Ratings added to every item's before its share of likes is taken, half of them likes.
PRIOR: Final = 10.0

#: What it weighs that the person's likes share an item's attributes; all of them would be 1.
ATTRIBUTES: Final = 0.3


class Event(NamedTuple):
    """One of a person's ratings: 0.5 to 5 stars at Unix seconds."""

    item_index: int
    rating: float
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """Slots [N] int64, best first, and their scores [N] float64."""

    item_indices: NDArray[np.int64]
    scores: NDArray[np.float64]


#: People whose counts are exchanged at a time when an item is retired.
_AT_A_TIME: Final = 500


class CandidateIndex:
    """Counts over users, and the proposals that follow from them.

    `catalogue_size` is the number of slots that may be proposed although nobody has rated them.
    """

    def __init__(self, catalog_size: int = 0) -> None:
        self._catalog_size = catalog_size
        self._people: dict[str, Contribution] = {}
        self._retired: set[int] = set()
        self._items = ItemCounts(catalog_size)
        self._pairs = Cooccurrence()
        self._profile = AttributeProfile()
        #: May be set at any time, as the half-life, in buckets: counts know nothing of them.
        self.attributes_weight = ATTRIBUTES
        self.half_life = HALF_LIFE

    @classmethod
    def build(
        cls, interactions: Interactions, exclude_users: Collection[str] = ()
    ) -> CandidateIndex:
        """Count a whole table at once: the same state as one `replace_user` per person, sooner."""
        index = cls(len(interactions.items))
        index._people, rated, liked, liker = contributions_of(
            interactions, frozenset(exclude_users)
        )
        index._items.add(rated, liked, 1)
        index._pairs = Cooccurrence.build(liked, liker)
        return index

    def __len__(self) -> int:
        """Return the number of people who add anything."""
        return len(self._people)

    def pair_cells(self) -> int:
        """Return the number of counts of pairs, of which there are the most by far."""
        return self._pairs.cells()

    def grow(self, catalog_size: int) -> None:
        """Let the slots below `catalogue_size` be proposed although nobody has rated them."""
        self._catalog_size = max(self._catalog_size, catalog_size)
        self._items.reserve(catalog_size)

    def describe(self, attributes: Mapping[int, Mapping[str, Sequence[str]]]) -> None:
        """Take slot → attribute name → values of the whole catalogue in place of what was known."""
        self._profile = AttributeProfile(attributes)

    def replace_user(self, user_id: str, history: Sequence[tuple[int, float, int]]) -> None:
        """Put (slot, rating, timestamp) rows in the place of all that the person added before.

        An empty history takes the person out. A slot may come only once (ValueError).
        """
        new = contribution_of([event for event in history if event[0] not in self._retired])
        self._exchange({user_id: (self._people.get(user_id, NOTHING), new)})

    def retire(self, item_index: int) -> None:
        """Forget the item: never propose it again, and count as though nobody had rated it."""
        self._retired.add(item_index)
        rated = self._items.total[RATED]
        if item_index >= len(rated) or not rated[item_index]:
            return  # Nobody has to be looked for; a build retires all that was ever retired.
        raters = [(user_id, one) for user_id, one in self._people.items() if one.rates(item_index)]
        for start in range(0, len(raters), _AT_A_TIME):
            some = raters[start : start + _AT_A_TIME]
            self._exchange({user_id: (old, old.without(item_index)) for user_id, old in some})

    def propose(
        self,
        history: Sequence[Event],
        limit: int,
        *,
        excluded: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots for a person's own history, oldest first.

        `barred` slots are left out, and of `allowed`, by slot, only those that are True (slots
        beyond its end are not). A history of nothing gives what is popular.
        """
        liked = [one.item_index for one in history if one.rating > LIKED_ABOVE][-HISTORY:]
        score = self._popularity() + self._nearness(liked)
        score += self.attributes_weight * self._profile.fit(liked, len(score))
        return self._best(score, limit, excluded, allowed)

    def popular(
        self,
        limit: int,
        *,
        excluded: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots by popularity alone: `propose` to somebody without likes."""
        return self.propose((), limit, excluded=excluded, allowed=allowed)

    def similar(
        self,
        item_index: int,
        limit: int,
        *,
        excluded: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` slots that are liked by those who liked this one; never itself."""
        return self._best(self._nearness([item_index]), limit, [*excluded, item_index], allowed)

    def _nearness(self, item_indices: Sequence[int]) -> NDArray[np.float64]:
        """Return by slot how often it was liked near these, for how often each was liked."""
        decayed, weights = self._items.decayed(self.half_life)
        rarity = 1.0 / np.sqrt(decayed[LIKED] + SHRINKAGE)
        score = np.zeros(len(rarity))
        for item_index in item_indices:
            neighbors, counts = self._pairs.neighbors(item_index, weights)
            if len(neighbors):
                score[neighbors] += counts * rarity[item_index]
        return np.asarray(score * rarity, np.float64)

    def _best(
        self,
        score: NDArray[np.float64],
        limit: int,
        excluded: Collection[int],
        allowed: NDArray[np.bool_] | None,
    ) -> Ranked:
        """Return the best slots; of equal scores the smaller slot comes first."""
        usable = self._items.total[RATED] > 0
        usable[: self._catalog_size] = True
        if allowed is not None:
            usable[: len(allowed)] &= allowed[: len(usable)]
            usable[len(allowed) :] = False
        out = np.fromiter((*self._retired, *excluded), np.int64)
        usable[out[(out >= 0) & (out < len(usable))]] = False
        best = _highest(np.flatnonzero(usable), score, max(limit, 0))
        return Ranked(item_indices=best.astype(np.int64), scores=score[best])

    def state(self) -> bytes:
        """Return all that is known in one canonical form: equal data gives equal bytes."""
        parts = [struct.pack("<q", self._catalog_size), struct.pack("<q", len(self._retired))]
        parts.append(np.array(sorted(self._retired), "<i8").tobytes())
        for user_id, added in sorted(self._people.items()):
            name = user_id.encode()
            parts += [struct.pack("<q", len(name)), name]
            for events in (added.rated, added.liked):
                parts += [struct.pack("<q", len(events)), events.astype("<u4").tobytes()]
        return b"".join([*parts, *self._items.state(), *self._pairs.state()])

    def _exchange(self, people: dict[str, tuple[Contribution, Contribution]]) -> None:
        """Count the second contribution of each of these people in the place of the first."""
        pairs = []
        for side, sign in ((0, -1), (1, 1)):
            changed = [both[side] for both in people.values()]
            liked = np.concatenate([one.liked for one in changed])
            owner = np.repeat(np.arange(len(changed)), [len(one.liked) for one in changed])
            pairs.append(pairs_of(liked, owner.astype(np.int32)))
            self._items.add(np.concatenate([one.rated for one in changed]), liked, sign)
        self._pairs.exchange(*pairs)
        for user_id, (_, new) in people.items():
            if len(new.rated):
                self._people[user_id] = new
            else:
                self._people.pop(user_id, None)

    def _popularity(self) -> NDArray[np.float64]:
        """Return at most POPULARITY by slot: likes on a logarithmic scale, times their share."""
        (rated, liked), _ = self._items.decayed(self.half_life)
        share = (liked + PRIOR / 2) / (rated + PRIOR)
        weight = np.log1p(liked) * share
        top = weight.max(initial=0.0)
        scale = POPULARITY / top if top > 0 else 0.0
        return np.asarray(scale * weight, np.float64)


def _highest(
    item_indices: NDArray[np.int64], score: NDArray[np.float64], limit: int
) -> NDArray[np.int64]:
    """Return the `limit` ascending slots of highest score, best first; ties go by slot."""
    values = score[item_indices]
    if limit < len(item_indices):
        if limit == 0:
            return item_indices[:0]
        last = np.partition(values, len(values) - limit)[len(values) - limit]
        above = values > last
        # Of those that share the last place, the smaller slots are taken.
        level = np.flatnonzero(values == last)[: limit - int(above.sum())]
        kept = np.union1d(np.flatnonzero(above), level)
        item_indices, values = item_indices[kept], values[kept]
    # The sort is stable and the slots ascend, so the smaller slot wins a tie.
    return item_indices[np.argsort(-values, kind="stable")]
