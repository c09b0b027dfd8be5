"""Propose a few hundred items for the language model to rank (the first stage).

The index unlearns exactly. Its state consists of integer sums over users: how often an item was
rated and liked, and how often two items were liked close to each other by one user. A user's
contribution does not depend on other users, so removing a user subtracts exactly that contribution
and leaves, byte for byte, the state of an index built without the user.

The index is not thread-safe: the caller must not run `replace_user`, `retire` or `grow` in parallel
with each other or with a query.
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

#: The number of latest likes of a history that a query uses.
LATEST_LIKES: Final = 20
#: The number of buckets after which a count weighs half. Decay applies at query time, so counts
#: stay integers. Shorter half-lives gave lower recall on ml-latest-small
#: (docs/results/first-stage).
HALF_LIFE: Final = 1000.0
#: Added to the likes of an item before dividing by them, because few likes are unreliable.
SHRINKAGE: Final = 10.0
#: The weight of the most popular item's popularity in the score of `propose`.
POPULARITY_WEIGHT: Final = 0.1
#: Ratings added to those of every item, half of them likes, to compute its share of likes.
PRIOR_RATINGS: Final = 10.0
#: The weight of the attributes that an item shares with the user's likes.
ATTRIBUTES_WEIGHT: Final = 0.3
#: The number of users that `retire` updates at a time.
_USERS_PER_BATCH: Final = 500


class Event(NamedTuple):
    """A rating of a user's history: `rating` is 0.5 to 5 stars, `timestamp` is in Unix seconds."""

    item_index: int
    rating: float
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """Item indices [N] int64, best first, and their scores [N] float64."""

    item_indices: NDArray[np.int64]
    scores: NDArray[np.float64]


class CandidateIndex:
    """Counts over users, from which candidates are proposed.

    Item indices below `catalog_size` may be proposed without any rating.
    """

    def __init__(self, catalog_size: int = 0) -> None:
        self._catalog_size = catalog_size
        self._contributions: dict[str, Contribution] = {}
        self._retired: set[int] = set()
        self._items = ItemCounts(catalog_size)
        self._pairs = Cooccurrence()
        self._profile = AttributeProfile()
        #: The half-life of counts in buckets, which may be set at any time.
        self.half_life = HALF_LIFE

    @classmethod
    def build(
        cls, interactions: Interactions, exclude_users: Collection[str] = ()
    ) -> CandidateIndex:
        """Build an index from a table, faster than with one `replace_user` per user."""
        index = cls(len(interactions.items))
        index._contributions, rated, liked, liker = contributions_of(
            interactions, frozenset(exclude_users)
        )
        index._items.add(rated, liked, 1)
        index._pairs = Cooccurrence.build(liked, liker)
        return index

    def __len__(self) -> int:
        """Return the number of users with ratings."""
        return len(self._contributions)

    def pair_cells(self) -> int:
        """Return the number of counts of pairs, which take most of the memory."""
        return self._pairs.cells()

    def grow(self, catalog_size: int) -> None:
        """Allow item indices below `catalog_size` to be proposed without any rating."""
        self._catalog_size = max(self._catalog_size, catalog_size)
        self._items.reserve(catalog_size)

    def describe(self, attributes: Mapping[int, Mapping[str, Sequence[str]]]) -> None:
        """Replace all attributes: item index → attribute name → values of the whole catalog."""
        self._profile = AttributeProfile(attributes)

    def replace_user(self, user_id: str, history: Sequence[tuple[int, float, int]]) -> None:
        """Replace a user's history of (item index, rating, timestamp) rows.

        An empty history removes the user. Raises ValueError for a repeated or invalid item index.
        """
        new = contribution_of([event for event in history if event[0] not in self._retired])
        self._exchange({user_id: (self._contributions.get(user_id, NOTHING), new)})

    def retire(self, item_index: int) -> None:
        """Remove an item and all its ratings permanently."""
        self._retired.add(item_index)
        rated = self._items.total[RATED]
        if item_index >= len(rated) or not rated[item_index]:
            return  # No user has rated the item; new builds retire many such items.
        raters = [
            (user_id, contribution)
            for user_id, contribution in self._contributions.items()
            if contribution.rates(item_index)
        ]
        for start in range(0, len(raters), _USERS_PER_BATCH):
            batch = raters[start : start + _USERS_PER_BATCH]
            self._exchange({user_id: (old, old.without(item_index)) for user_id, old in batch})

    def propose(
        self,
        history: Sequence[Event],
        limit: int,
        *,
        excluded: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` candidates for a history, which is ordered oldest first.

        `excluded` item indices are left out. `allowed` [size], if given, must be True for an item
        index; item indices beyond its end are not allowed. An empty history gives popular items.
        """
        likes = [event.item_index for event in history if event.rating > LIKED_ABOVE]
        latest = likes[-LATEST_LIKES:]
        score = self._popularity() + self._nearness(latest)
        score += ATTRIBUTES_WEIGHT * self._profile.fit(latest, len(score))
        return self._best(score, limit, excluded, allowed)

    def similar(
        self,
        item_index: int,
        limit: int,
        *,
        excluded: Collection[int] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` other items that users liked close to this item."""
        return self._best(self._nearness([item_index]), limit, [*excluded, item_index], allowed)

    def _nearness(self, item_indices: Sequence[int]) -> NDArray[np.float64]:
        """Return scores by item index from the likes close to the likes of `item_indices`.

        Each decayed pair count is divided by the square roots of both items' likes.
        """
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
        """Return the best usable items; equal scores are ordered by item index."""
        usable = self._items.total[RATED] > 0
        usable[: self._catalog_size] = True
        if allowed is not None:
            usable[: len(allowed)] &= allowed[: len(usable)]
            usable[len(allowed) :] = False
        hidden = np.fromiter((*self._retired, *excluded), np.int64)
        usable[hidden[(hidden >= 0) & (hidden < len(usable))]] = False
        best = _highest(np.flatnonzero(usable), score, max(limit, 0))
        return Ranked(item_indices=best.astype(np.int64), scores=score[best])

    def state(self) -> bytes:
        """Return the complete state in canonical form: equal data gives equal bytes."""
        parts = [struct.pack("<q", self._catalog_size), struct.pack("<q", len(self._retired))]
        parts.append(np.array(sorted(self._retired), "<i8").tobytes())
        for user_id, contribution in sorted(self._contributions.items()):
            name = user_id.encode()
            parts += [struct.pack("<q", len(name)), name]
            for events in (contribution.rated, contribution.liked):
                parts += [struct.pack("<q", len(events)), events.astype("<u4").tobytes()]
        return b"".join([*parts, *self._items.state(), *self._pairs.state()])

    def _exchange(self, changes: dict[str, tuple[Contribution, Contribution]]) -> None:
        """Replace contributions: user id → (old, new)."""
        pairs = []
        for side, sign in ((0, -1), (1, 1)):
            contributions = [change[side] for change in changes.values()]
            likes = [contribution.liked for contribution in contributions]
            liked = np.concatenate(likes)
            owner = np.repeat(np.arange(len(likes)), list(map(len, likes)))
            pairs.append(pairs_of(liked, owner.astype(np.int32)))
            rated = np.concatenate([contribution.rated for contribution in contributions])
            self._items.add(rated, liked, sign)
        self._pairs.exchange(*pairs)
        for user_id, (_, new) in changes.items():
            if len(new.rated):
                self._contributions[user_id] = new
            else:
                self._contributions.pop(user_id, None)

    def _popularity(self) -> NDArray[np.float64]:
        """Return popularity by item index: log(1 + likes) × share of likes, scaled."""
        (rated, liked), _ = self._items.decayed(self.half_life)
        share = (liked + PRIOR_RATINGS / 2) / (rated + PRIOR_RATINGS)
        popularity = np.log1p(liked) * share
        top = popularity.max(initial=0.0)
        scale = POPULARITY_WEIGHT / top if top > 0 else 0.0
        return np.asarray(scale * popularity, np.float64)


def _highest(
    item_indices: NDArray[np.int64], score: NDArray[np.float64], limit: int
) -> NDArray[np.int64]:
    """Return the `limit` items with the highest scores, best first.

    `item_indices` must ascend; equal scores are ordered by item index.
    """
    values = score[item_indices]
    if limit < len(item_indices):
        if limit == 0:
            return item_indices[:0]
        lowest = np.partition(values, len(values) - limit)[len(values) - limit]
        above = values > lowest
        # Of the items that share the lowest score, those with smaller item indices are kept.
        tied = np.flatnonzero(values == lowest)[: limit - int(above.sum())]
        kept = np.union1d(np.flatnonzero(above), tied)
        item_indices, values = item_indices[kept], values[kept]
    # The sort is stable, so equal scores keep the ascending order of item indices.
    return item_indices[np.argsort(-values, kind="stable")]
