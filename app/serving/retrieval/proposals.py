"""Propose items to one asker from a view of the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.services.recommendation_inputs import require_items
from app.serving.retrieval.histories import StoredHistory, UsableHistory

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery
    from app.services.recommendation_inputs import Inputs
    from app.serving.retrieval.index_view import IndexView
    from models.prompts.scoring_inputs import Candidate, HistoryEvent
    from models.retrieval.candidate_index import CandidateIndex


@dataclass(frozen=True, slots=True)
class ProposedItems:
    """Items proposed to one user, best first, and the user's unsuppressed history."""

    items: tuple[Item, ...]
    #: The scorer's inputs for the items.
    candidates: tuple[Candidate, ...]
    usable: UsableHistory
    #: Whether the first stage has further items after these.
    has_more: bool

    @property
    def history(self) -> tuple[HistoryEvent, ...]:
        """Return the latest events, oldest first: all that a score depends on."""
        return self.usable.events

    @property
    def history_ids(self) -> tuple[str, ...]:
        """Return the item ids of `history`."""
        return self.usable.ids


@dataclass(frozen=True, slots=True, kw_only=True)
class AskerItems:
    """What the first stage uses of an asker."""

    #: The view's index, perhaps with the asker's own writes.
    index: CandidateIndex
    usable: UsableHistory
    #: [N] int32 item indices of all ratings.
    seen: NDArray[np.int32]
    #: Items of open deletion requests.
    suppressed_item_ids: frozenset[str]

    @classmethod
    def from_memory(cls, view: IndexView, stored: StoredHistory) -> AskerItems:
        """Take a history of the view itself."""
        return cls(
            index=view.index,
            usable=UsableHistory(view.catalog, stored, view.suppressed_items),
            seen=stored.item_indices,
            suppressed_item_ids=view.suppressed_items,
        )

    @classmethod
    def from_inputs(cls, view: IndexView, inputs: Inputs) -> AskerItems:
        """Take a history that was read from the database, or the one of a visitor."""
        by_id = view.catalog.by_id
        rows = [
            (by_id[event.item_id].item_index, event.rating, 0)
            for event in inputs.history
            if event.item_id in by_id
        ]
        return cls(
            index=view.index_for(inputs),
            usable=UsableHistory(view.catalog, StoredHistory.of(rows)),
            seen=_indices(view.catalog.item_indices_of(inputs.seen_item_ids)),
            suppressed_item_ids=inputs.suppressed_item_ids,
        )


def propose(
    view: IndexView, asker: AskerItems, query: RecommendationQuery, start: int, stop: int
) -> ProposedItems:
    """Propose the items of ranks `start` to `stop`, excluding retired and suppressed items.

    A query with `item_ids` gets all of these items that may be recommended, regardless of `start`
    and `stop`. Raises UnknownItemError and InvalidInputError.
    """
    catalog = view.catalog
    excluded = _indices(catalog.item_indices_of(asker.suppressed_item_ids))
    if query.exclude_seen:
        excluded = np.concatenate([excluded, asker.seen])
    allowed = catalog.mask(query.filter)
    if query.item_ids is not None:
        require_items(set(query.item_ids), catalog.by_id)
        allowed = _restrict(allowed, catalog.item_indices_of(query.item_ids), catalog.size)
        start, stop = 0, len(query.item_ids)
    # One item beyond `stop` tells whether there are more.
    proposal = asker.index.propose(asker.usable.likes, stop + 1, excluded=excluded, allowed=allowed)
    item_indices = proposal.item_indices.tolist()
    page = item_indices[start:stop]
    items = tuple([catalog.by_item_index[item_index] for item_index in page])
    return ProposedItems(
        items=items,
        candidates=tuple([catalog.candidate(item) for item in items]),
        usable=asker.usable,
        has_more=len(item_indices) > stop,
    )


def similar(
    view: IndexView,
    item_id: str,
    n: int,
    attribute_filter: AttributeFilter,
) -> list[tuple[Item, float]]:
    """Return up to `n` items liked by the users who like this item, with scores, best first.

    Raises UnknownItemError and InvalidInputError.
    """
    catalog, suppressed = view.catalog, view.suppressed_items
    require_items({item_id}, () if item_id in suppressed else catalog.by_id)
    ranked = view.index.similar(
        catalog.by_id[item_id].item_index,
        n,
        excluded=catalog.item_indices_of(suppressed),
        allowed=catalog.mask(attribute_filter),
    )
    pairs = zip(ranked.item_indices.tolist(), ranked.scores.tolist(), strict=True)
    return [(catalog.by_item_index[item_index], score) for item_index, score in pairs if score > 0]


def _indices(item_indices: Collection[int]) -> NDArray[np.int32]:
    return np.fromiter(item_indices, np.int32, len(item_indices))


def _restrict(
    allowed: NDArray[np.bool_] | None, item_indices: Collection[int], size: int
) -> NDArray[np.bool_]:
    """Return a [size] mask of the allowed items among these item indices."""
    mask = np.zeros(size, np.bool_)
    mask[list(item_indices)] = True
    return mask if allowed is None else mask & allowed
