"""Propose candidate items, from statistics that follow the change log of the database.

Every deletion in a query's snapshot is applied before the first stage proposes items. New ratings
of an import may be missing from the statistics until the next rebuild in the background.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import GoneError, UnknownUserError
from app.services.recommendation_inputs import (
    SuppressedItemsCache,
    read_inputs,
    require_items,
)
from app.serving.retrieval.index_building import build_index
from models.prompts.scoring_inputs import HistoryEvent
from models.retrieval.candidate_index import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs
    from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
    from app.serving.retrieval.index_building import IndexWithCatalog
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory
    from models.prompts.scoring_inputs import Candidate

#: Beyond this many changed users, rebuilding the index is faster than updating it.
_MAX_CHANGED_USERS: Final = 500
#: Change-log entries that a query must apply even if this requires a rebuild.
_URGENT_KINDS: Final = frozenset({"forget"})


@dataclass(frozen=True, slots=True)
class ProposedItems:
    """Items proposed to one user, best first, and the user's unsuppressed history, oldest first."""

    items: tuple[Item, ...]
    #: The scorer's inputs for the items.
    candidates: tuple[Candidate, ...]
    history: tuple[HistoryEvent, ...]
    #: The item ids of the history.
    history_ids: tuple[str, ...]
    #: Whether the first stage has further items after these.
    has_more: bool


class FirstStage:
    """Propose items from co-occurrence statistics; one instance per replica. Thread-safe."""

    def __init__(self, uow: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
        """Start without statistics; the first `rebuild` or query builds them."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        #: Guards `_state`. Queries hold this lock while they update the statistics and propose.
        self._lock = threading.Lock()
        #: Keeps two rebuilds from running at once: each takes the memory of a whole index.
        self._rebuild_lock = threading.Lock()
        self._state: IndexWithCatalog | None = None
        self._suppressed_items = SuppressedItemsCache()
        self._on_change: Callable[[str | None], None] = lambda _: None

    def watch(self, on_change: Callable[[str | None], None]) -> None:
        """Call `on_change` with each changed user's id, or None if any user may have changed.

        The call precedes every use of the changed data. It happens under the lock of this object,
        so it must neither block nor raise.
        """
        self._on_change = on_change

    @property
    def ready(self) -> bool:
        """Return whether the statistics have been built."""
        return self._state is not None

    @property
    def version(self) -> int:
        """Return the data version up to which all changes are counted; -1 without statistics."""
        state = self._state
        return -1 if state is None else state.version

    def __len__(self) -> int:
        """Return the number of users with interactions in the statistics."""
        state = self._state
        return 0 if state is None else len(state.index)

    def follow(self) -> None:
        """Apply the change log, with a rebuild where needed; runs in the background."""
        with self._uow(write=False) as uow, self._lock:
            state = self._state
            current = state is not None and self._advance(uow, state, uow.state.data_version())
        if not current:
            self.rebuild()

    def discard_newer(self, version: int) -> None:
        """Discard statistics of a later data version: the database was restored from a backup."""
        with self._lock:
            if self._state is not None and self._state.version > version:
                self._on_change(None)
                self._state = None

    def rebuild(self) -> None:
        """Build new statistics from one snapshot while the present statistics stay in use."""
        with self._rebuild_lock:
            with self._uow(write=False) as uow:
                rebuilt = build_index(uow, self._pseudonyms)
            with self._lock:
                # A query may have applied newer changes during the rebuild. Older statistics must
                # not replace the present ones: they would bring a deleted user back.
                if self._state is None or rebuilt.version >= self._state.version:
                    self._on_change(None)
                    self._state = rebuilt

    def propose(
        self, uow: UnitOfWork, inputs: Inputs, query: RecommendationQuery, start: int, stop: int
    ) -> ProposedItems:
        """Propose the items of ranks `start` to `stop`, excluding retired and suppressed items.

        A query with `item_ids` gets all of these items that may be recommended, regardless of
        `start` and `stop`. `uow` is the snapshot that `inputs` were read from: every deletion in
        this snapshot is applied first. Raises UnknownItemError and InvalidInputError.
        """
        with self._lock:
            state = self._current_state(uow, inputs.data_version)
            catalog = state.catalog
            events, history, history_ids = _known_history(catalog, inputs)
            excluded = set(inputs.suppressed_item_ids)
            if query.exclude_seen:
                excluded |= inputs.seen_item_ids
            allowed = catalog.mask(query.filter)
            if query.item_ids is not None:
                require_items(set(query.item_ids), catalog.by_id)
                allowed = _restrict(allowed, catalog.item_indices_of(query.item_ids), catalog.size)
                start, stop = 0, len(query.item_ids)
            # One item beyond `stop` tells whether there are more.
            proposal = state.index.propose(
                events,
                stop + 1,
                excluded=catalog.item_indices_of(excluded),
                allowed=allowed,
            )
            item_indices = proposal.item_indices.tolist()
            items = tuple(
                catalog.by_item_index[item_index] for item_index in item_indices[start:stop]
            )
            candidates = tuple(catalog.candidate(item) for item in items)
        return ProposedItems(
            items=items,
            candidates=candidates,
            history=history,
            history_ids=history_ids,
            has_more=len(item_indices) > stop,
        )

    def similar(
        self,
        uow: UnitOfWork,
        item_id: str,
        n: int,
        attribute_filter: AttributeFilter,
        suppressed_item_ids: Collection[str],
        version: int,
    ) -> list[tuple[Item, float]]:
        """Return up to `n` items liked by the users who like this item, with scores, best first.

        Raises UnknownItemError and InvalidInputError.
        """
        with self._lock:
            state = self._current_state(uow, version)
            catalog = state.catalog
            require_items({item_id}, () if item_id in suppressed_item_ids else catalog.by_id)
            similar = state.index.similar(
                catalog.by_id[item_id].item_index,
                n,
                excluded=catalog.item_indices_of(suppressed_item_ids),
                allowed=catalog.mask(attribute_filter),
            )
            pairs = zip(similar.item_indices.tolist(), similar.scores.tolist(), strict=True)
            return [
                (catalog.by_item_index[item_index], score)
                for item_index, score in pairs
                if score > 0
            ]

    def _current_state(self, uow: UnitOfWork, version: int) -> IndexWithCatalog:
        """Return the statistics with every deletion of this snapshot applied; needs the lock."""
        state = self._state
        if state is None or not self._advance(uow, state, version, skip_unnamed_ratings=True):
            self._on_change(None)
            state = self._state = build_index(uow, self._pseudonyms)
        return state

    def _advance(
        self,
        uow: UnitOfWork,
        state: IndexWithCatalog,
        version: int,
        *,
        skip_unnamed_ratings: bool = False,
    ) -> bool:
        """Apply the change log up to `version`; return False if only a rebuild can do so.

        Entries without a user id come from imports, or from users whose deletion has completed.
        With `skip_unnamed_ratings`, ratings among these entries wait: `state.version` stays
        behind, and `follow` rebuilds in the background. `completed` entries need no action,
        because the preceding `forget` entry removed the user.
        """
        if version <= state.version:
            return True
        changes = uow.state.changes_since(state.version)
        # An incomplete log could hide a deletion, so only a rebuild is safe.
        if [change.version for change in changes] != list(range(state.version + 1, version + 1)):
            return False
        user_changes = [change for change in changes if change.kind not in {"completed", "items"}]
        changed_user_ids = sorted(
            {change.user_id for change in user_changes if change.user_id is not None}
        )
        unnamed_kinds = {change.kind for change in user_changes if change.user_id is None}
        if unnamed_kinds & _URGENT_KINDS or len(changed_user_ids) > _MAX_CHANGED_USERS:
            return False
        if any(change.kind == "items" for change in changes):
            state.replace_catalog(uow.people.items())
        for user_id in changed_user_ids:
            self._on_change(user_id)
        self._replace_users(uow, state, changed_user_ids)
        if unnamed_kinds:
            return skip_unnamed_ratings
        state.version = version
        return True

    def _replace_users(
        self, uow: UnitOfWork, state: IndexWithCatalog, user_ids: Sequence[str]
    ) -> None:
        """Replace the users' interactions in the index by their unsuppressed history."""
        items = state.catalog.by_id
        for user_id in user_ids:
            try:
                history = read_inputs(
                    uow, self._pseudonyms, user_id, self._suppressed_items
                ).history
            except (GoneError, UnknownUserError):
                history = ()
            state.index.replace_user(
                user_id,
                [
                    (items[event.item_id].item_index, event.rating, event.timestamp)
                    for event in history
                    if event.item_id in items
                ],
            )


def _known_history(
    catalog: CatalogSnapshot, inputs: Inputs
) -> tuple[list[Event], tuple[HistoryEvent, ...], tuple[str, ...]]:
    """Return the history as input of the index and of the scorer, and its item ids.

    Items that are not in the catalog are left out.
    """
    known = [
        (catalog.by_id[event.item_id], event)
        for event in inputs.history
        if event.item_id in catalog.by_id
    ]
    return (
        [Event(item.item_index, event.rating, event.timestamp) for item, event in known],
        tuple(HistoryEvent(item.item_index, event.rating, item.title) for item, event in known),
        tuple(item.id for item, _ in known),
    )


def _restrict(
    allowed: NDArray[np.bool_] | None, item_indices: Collection[int], size: int
) -> NDArray[np.bool_]:
    """Return a [size] mask of the allowed items among these item indices."""
    mask = np.zeros(size, np.bool_)
    mask[list(item_indices)] = True
    return mask if allowed is None else mask & allowed
