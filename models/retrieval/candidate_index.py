"""Propose a few hundred items for the language model to rank (the first stage).

The index unlearns exactly. Its state consists of integer sums over users: how often an item was
rated and liked, and how often two items were liked close to each other by one user. A user's
contribution does not depend on other users, so removing a user subtracts exactly that contribution
and leaves, byte for byte, the state of an index built without the user.

An index that changes is not thread-safe. To serve queries meanwhile, change a `copy`, call `settle`
and publish the copy: any number of threads may query an index that is settled and not changed any
more. `overlaid` returns such an index within a millisecond for a few users.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from models.data.samples import LIKED_ABOVE
from models.retrieval.attribute_profile import AttributeProfile
from models.retrieval.contributions import Contribution, contribution_of, contributions_of
from models.retrieval.cooccurrence import Cooccurrence, pairs_of
from models.retrieval.item_counts import RATED, ItemCounts
from models.retrieval.item_scores import ItemScores, exclude, highest
from models.retrieval.pair_changes import PairChanges
from models.retrieval.user_contributions import UserContributions

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
        self._contributions = UserContributions()
        self._retired: set[int] = set()
        self._items = ItemCounts(catalog_size)
        self._pairs = Cooccurrence()
        self._profile = AttributeProfile()
        #: Changes of pairs of an overlay, which is read-only; None for an index.
        self._pair_changes: PairChanges | None = None
        #: What queries share; None after a change.
        self._scores: ItemScores | None = None
        #: The half-life of counts in buckets, which may be set at any time.
        self.half_life = HALF_LIFE

    @classmethod
    def build(
        cls, interactions: Interactions, exclude_users: Collection[str] = ()
    ) -> CandidateIndex:
        """Build an index from a table, faster than with one `replace_user` per user."""
        index = cls(len(interactions.items))
        contributions, rated, liked, liker = contributions_of(
            interactions, frozenset(exclude_users)
        )
        index._contributions = UserContributions(contributions)
        index._items.add(rated, liked, 1)
        index._pairs = Cooccurrence.build(liked, liker)
        return index

    def copy(self) -> CandidateIndex:
        """Return a copy that shares all data with this index until one of the two changes."""
        pairs = self._pairs.copy() if self._pair_changes is None else self._pairs
        return self._with(self._contributions.copy(), self._items.copy(), pairs, self._pair_changes)

    def overlaid(self, histories: Mapping[str, Sequence[tuple[int, float, int]]]) -> CandidateIndex:
        """Return a settled, read-only index with other histories of these users.

        Queries give the same answers as after `replace_users`, but the cost grows with the users'
        ratings only: the counts of pairs change when a query reads them.
        """
        old = [self._contributions[user_id] for user_id in histories]
        new = [self._contribution_of(history) for history in histories.values()]
        contributions, items = self._contributions.copy(), self._items.copy()
        _count(items, old, -1)
        _count(items, new, 1)
        for user_id, contribution in zip(histories, new, strict=True):
            contributions[user_id] = contribution
        pair_changes = PairChanges(old, new, self._pair_changes)
        overlay = self._with(contributions, items, self._pairs, pair_changes)
        overlay.settle()
        return overlay

    def _with(
        self,
        contributions: UserContributions,
        items: ItemCounts,
        pairs: Cooccurrence,
        pair_changes: PairChanges | None,
    ) -> CandidateIndex:
        """Return an index of the same catalog with other counts."""
        index = CandidateIndex()
        index._catalog_size, index._retired = self._catalog_size, set(self._retired)
        index._contributions, index._items = contributions, items
        index._pairs, index._pair_changes = pairs, pair_changes
        index._profile, index.half_life = self._profile, self.half_life
        return index

    def settle(self) -> None:
        """Compute what queries share, so that further queries change nothing."""
        self._item_scores()

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
        self._scores = None

    def describe(self, attributes: Mapping[int, Mapping[str, Sequence[str]]]) -> None:
        """Replace all attributes: item index → attribute name → values of the whole catalog."""
        self._profile = AttributeProfile(attributes)

    def replace_user(self, user_id: str, history: Sequence[tuple[int, float, int]]) -> None:
        """Replace a user's history of (item index, rating, timestamp) rows.

        An empty history removes the user. Raises ValueError for a repeated or invalid item index.
        """
        self.replace_users({user_id: history})

    def replace_users(self, histories: Mapping[str, Sequence[tuple[int, float, int]]]) -> None:
        """Replace the histories of several users, as `replace_user` for each of them."""
        if histories:
            self._exchange(
                {
                    user_id: (self._contributions[user_id], self._contribution_of(history))
                    for user_id, history in histories.items()
                }
            )

    def raters_of(self, item_index: int) -> list[str]:
        """Return the ids of the users who have rated the item."""
        rated = self._items.total[RATED]
        if item_index >= len(rated) or not rated[item_index]:
            return []
        return [
            user_id
            for user_id, contribution in self._contributions.items()
            if contribution.rates(item_index)
        ]

    def remove_item(self, item_index: int, user_ids: Sequence[str]) -> None:
        """Remove the item from the histories of these users."""
        for start in range(0, len(user_ids), _USERS_PER_BATCH):
            batch = user_ids[start : start + _USERS_PER_BATCH]
            old = {user_id: self._contributions[user_id] for user_id in batch}
            self._exchange(
                {
                    user_id: (contribution, contribution.without(item_index))
                    for user_id, contribution in old.items()
                }
            )

    def hide(self, item_indices: Collection[int]) -> None:
        """Propose these items no more; `retire` also removes their ratings."""
        self._retired |= set(item_indices)
        self._scores = None

    def retire(self, item_index: int) -> None:
        """Remove an item and all its ratings permanently."""
        self.hide([item_index])
        self.remove_item(item_index, self.raters_of(item_index))

    def propose(
        self,
        history: Sequence[Event],
        limit: int,
        *,
        excluded: Collection[int] | NDArray[np.integer] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` candidates for a history, which is ordered oldest first.

        `excluded` item indices are left out. `allowed` [size], if given, must be True for an item
        index; item indices beyond its end are not allowed. An empty history gives popular items.
        """
        likes = [event.item_index for event in history if event.rating > LIKED_ABOVE]
        latest = likes[-LATEST_LIKES:]
        score = self._nearness(latest)
        score += self._item_scores().popularity
        score += ATTRIBUTES_WEIGHT * self._profile.fit(latest, len(score))
        return self._best(score, limit, excluded, allowed)

    def similar(
        self,
        item_index: int,
        limit: int,
        *,
        excluded: Collection[int] | NDArray[np.integer] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return up to `limit` other items that users liked close to this item."""
        return self._best(self._nearness([item_index]), limit, [*excluded, item_index], allowed)

    def _nearness(self, item_indices: Sequence[int]) -> NDArray[np.float64]:
        """Return scores by item index from the likes close to the likes of `item_indices`.

        Each decayed pair count is divided by the square roots of both items' likes.
        """
        shared = self._item_scores()
        weights, rarity = shared.weights, shared.rarity
        score = np.zeros(len(rarity))
        for item_index in item_indices:
            if self._pair_changes is None:
                neighbors, counts = self._pairs.neighbors(item_index, weights)
            else:
                neighbors, counts = self._pair_changes.neighbors(self._pairs, item_index, weights)
            if len(neighbors):
                score[neighbors] += counts * rarity[item_index]
        score *= rarity
        return score

    def _best(
        self,
        score: NDArray[np.float64],
        limit: int,
        excluded: Collection[int] | NDArray[np.integer],
        allowed: NDArray[np.bool_] | None,
    ) -> Ranked:
        """Return the best usable items; equal scores are ordered by item index."""
        usable = self._item_scores().usable.copy()
        if allowed is not None:
            usable[: len(allowed)] &= allowed[: len(usable)]
            usable[len(allowed) :] = False
        if not isinstance(excluded, np.ndarray):
            excluded = np.fromiter(excluded, np.int64, len(excluded))
        exclude(usable, excluded)
        best = highest(np.flatnonzero(usable), score, max(limit, 0))
        return Ranked(item_indices=best.astype(np.int64, copy=False), scores=score[best])

    def state(self) -> bytes:
        """Return the complete state in canonical form: equal data gives equal bytes."""
        self._require_no_overlay()
        parts = [struct.pack("<q", self._catalog_size), struct.pack("<q", len(self._retired))]
        parts.append(np.array(sorted(self._retired), "<i8").tobytes())
        for user_id, contribution in sorted(self._contributions.items()):
            name = user_id.encode()
            parts += [struct.pack("<q", len(name)), name]
            for events in (contribution.rated, contribution.liked):
                parts += [struct.pack("<q", len(events)), events.astype("<u4").tobytes()]
        return b"".join([*parts, *self._items.state(), *self._pairs.state()])

    def _item_scores(self) -> ItemScores:
        """Return what queries share, computed by the first query after a change."""
        scores = self._scores
        if scores is None or scores.half_life != self.half_life:
            scores = ItemScores.of(self._items, self.half_life, self._catalog_size, self._retired)
            self._scores = scores
        return scores

    def _exchange(self, changes: dict[str, tuple[Contribution, Contribution]]) -> None:
        """Replace contributions: user id → (old, new)."""
        self._require_no_overlay()
        self._scores = None
        pairs = []
        for side, sign in ((0, -1), (1, 1)):
            contributions = [change[side] for change in changes.values()]
            likes = [contribution.liked for contribution in contributions]
            liked = np.concatenate(likes)
            owner = np.repeat(np.arange(len(likes)), list(map(len, likes)))
            pairs.append(pairs_of(liked, owner.astype(np.int32)))
            _count(self._items, contributions, sign)
        self._pairs.exchange(*pairs)
        for user_id, (_, new) in changes.items():
            self._contributions[user_id] = new

    def _contribution_of(self, history: Sequence[tuple[int, float, int]]) -> Contribution:
        return contribution_of([event for event in history if event[0] not in self._retired])

    def _require_no_overlay(self) -> None:
        if self._pair_changes is not None:
            raise RuntimeError("an overlay is read-only; change a copy of its index instead")


def _count(items: ItemCounts, contributions: Sequence[Contribution], sign: int) -> None:
    """Add (`sign` 1) or subtract (`sign` -1) the ratings and likes of these contributions."""
    if contributions:
        rated = np.concatenate([contribution.rated for contribution in contributions])
        liked = np.concatenate([contribution.liked for contribution in contributions])
        items.add(rated, liked, sign)
