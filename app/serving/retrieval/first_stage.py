"""Keeps the first stage and the catalogue in step with the data, through the change log.

A deletion is applied before any answer that is read after it; statistics that merely lack new
ratings may lag until the next rebuild off the path.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import GoneError, UnknownUserError
from app.services.recommendation_inputs import SuppressedItemsCache, read_inputs, require_items
from app.serving.retrieval.index_building import build_index
from models.prompts.scoring_inputs import HistoryEvent
from models.retrieval.candidate_index import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery
    from app.services.ports import UnitOfWork, UnitOfWorkFactory
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs
    from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
    from app.serving.retrieval.index_building import IndexWithCatalog
    from models.prompts.scoring_inputs import Candidate

#: Beyond this many changed users, counting everything anew is the faster way.
_MOST_CHANGED_USERS: Final = 500
#: Taking a person out must never wait for a rebuild off the path.
_NEVER_WAITS: Final = frozenset({"forget"})


@dataclass(frozen=True, slots=True)
class ProposedItems:
    """The items proposed to one user, best first, and the usable history, oldest first."""

    items: tuple[Item, ...]
    #: What a model is asked of the items.
    candidates: tuple[Candidate, ...]
    history: tuple[HistoryEvent, ...]
    #: The ids of the history's items.
    history_ids: tuple[str, ...]
    #: Whether there are items beyond those.
    more: bool


class FirstStage:
    """The first stage of every recommendation on this replica; thread-safe."""

    def __init__(self, uow: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
        """Start empty; the first `rebuild` fills it."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._lock = threading.Lock()
        self._rebuilding = threading.Lock()
        self._state: IndexWithCatalog | None = None
        self._open_items = SuppressedItemsCache()
        self._on_change: Callable[[str | None], None] = lambda _: None

    def watch(self, on_change: Callable[[str | None], None]) -> None:
        """Have `on_change` told of whom the data changed, None for anybody, before it is used.

        It is called under this object's lock, and must neither wait nor fail.
        """
        self._on_change = on_change

    @property
    def ready(self) -> bool:
        """Say whether the statistics have been built once."""
        return self._state is not None

    @property
    def version(self) -> int | None:
        """Return the data version that the statistics have caught up with."""
        state = self._state
        return None if state is None else state.version

    def __len__(self) -> int:
        """Return the number of people who add anything to the statistics."""
        state = self._state
        return 0 if state is None else len(state.index)

    def fingerprint(self) -> bytes:
        """Return the canonical state of the index, for comparing it byte for byte."""
        with self._lock:
            return b"" if self._state is None else self._state.index.state()

    def follow(self) -> None:
        """Catch up with the log, rebuilding where it demands that; called off the path."""
        with self._uow(write=False) as uow, self._lock:
            state = self._state
            done = state is not None and self._advance(uow, state, uow.state.data_version())
        if not done:
            self.rebuild()

    def rebuild(self) -> None:
        """Count everything anew from one snapshot, while the present statistics keep answering."""
        with self._rebuilding:
            with self._uow(write=False) as uow:
                fresh = build_index(uow, self._pseudonyms)
            with self._lock:
                if self._state is None or fresh.version >= self._state.version:
                    self._on_change(None)
                    self._state = fresh

    def propose(
        self, uow: UnitOfWork, inputs: Inputs, query: RecommendationQuery, start: int, stop: int
    ) -> ProposedItems:
        """Propose the items from place `start` to `stop`, none of them retired or being forgotten.

        Where the question names its items, all of those that may be recommended are proposed.
        `uow` is the snapshot that the inputs were read from: every deletion in it is applied
        before anything is proposed. Raises UnknownItemError and InvalidInputError.
        """
        with self._lock:
            state = self._current(uow, inputs.data_version)
            catalog_snapshot = state.catalog_snapshot
            events, history, history_ids = _usable_history(catalog_snapshot, inputs)
            excluded = set(inputs.suppressed_item_ids)
            if query.exclude_seen:
                excluded |= inputs.seen_item_ids
            exclude = catalog_snapshot.item_indices_of(excluded)
            allowed = catalog_snapshot.passing(query.filter)
            if query.item_ids is not None:
                require_items(set(query.item_ids), catalog_snapshot.by_id)
                allowed = _only(
                    catalog_snapshot.item_indices_of(query.item_ids), catalog_snapshot.size, allowed
                )
                start, stop = 0, len(query.item_ids)
            found = state.index.propose(events, stop + 1, excluded=exclude, allowed=allowed)
            item_indices = found.item_indices.tolist()
            items = tuple(
                catalog_snapshot.by_item_index[item_index]
                for item_index in item_indices[start:stop]
            )
            candidates = tuple(catalog_snapshot.candidate(item) for item in items)
        return ProposedItems(
            items=items,
            candidates=candidates,
            history=history,
            history_ids=history_ids,
            more=len(item_indices) > stop,
        )

    def similar(
        self,
        uow: UnitOfWork,
        item_id: str,
        n: int,
        wanted: AttributeFilter,
        suppressed: Collection[str],
        version: int,
    ) -> list[tuple[Item, float]]:
        """Return up to `n` items that are liked by those who like this one; UnknownItemError."""
        with self._lock:
            state = self._current(uow, version)
            catalog_snapshot = state.catalog_snapshot
            require_items({item_id}, () if item_id in suppressed else catalog_snapshot.by_id)
            found = state.index.similar(
                catalog_snapshot.by_id[item_id].item_index,
                n,
                excluded=catalog_snapshot.item_indices_of(suppressed),
                allowed=catalog_snapshot.passing(wanted),
            )
            pairs = zip(found.item_indices.tolist(), found.scores.tolist(), strict=True)
            return [
                (catalog_snapshot.by_item_index[item_index], score)
                for item_index, score in pairs
                if score > 0
            ]

    def _current(self, uow: UnitOfWork, version: int) -> IndexWithCatalog:
        """Return the statistics with every deletion of this snapshot applied; under the lock."""
        state = self._state
        if state is None or not self._advance(uow, state, version, strict=False):
            self._on_change(None)
            state = self._state = build_index(uow, self._pseudonyms)
        return state

    def _advance(
        self, uow: UnitOfWork, state: IndexWithCatalog, version: int, *, strict: bool = True
    ) -> bool:
        """Apply what the log of a snapshot of this version holds beyond `state.version`.

        False where only counting anew helps.

        Not `strict`: nameless ratings (of an import, or of people who are gone by now) may wait;
        the version then stays behind, and `follow` rebuilds off the path. `completed` entries
        change nothing: the person was taken out with the `forget` entry.
        """
        if version <= state.version:
            return True
        changes = uow.state.changes_since(state.version)
        if [one.version for one in changes] != list(range(state.version + 1, version + 1)):
            return False
        people = [one for one in changes if one.kind not in {"completed", "items"}]
        users = sorted({one.user_id for one in people if one.user_id is not None})
        nameless = {one.kind for one in people if one.user_id is None}
        if nameless & _NEVER_WAITS or len(users) > _MOST_CHANGED_USERS:
            return False
        if any(one.kind == "items" for one in changes):
            state.take_catalog(uow.people.items())
        for user_id in users:
            self._on_change(user_id)
        self._replace(uow, state, users)
        if nameless:
            return not strict
        state.version = version
        return True

    def _replace(self, uow: UnitOfWork, state: IndexWithCatalog, users: Sequence[str]) -> None:
        for user_id in users:
            try:
                history = read_inputs(uow, self._pseudonyms, user_id, self._open_items).history
            except (GoneError, UnknownUserError):
                history = ()
            state.index.replace_user(
                user_id,
                [
                    (
                        state.catalog_snapshot.by_id[one.item_id].item_index,
                        one.rating,
                        one.timestamp,
                    )
                    for one in history
                    if one.item_id in state.catalog_snapshot.by_id
                ],
            )


def _usable_history(
    catalog_snapshot: CatalogSnapshot, inputs: Inputs
) -> tuple[list[Event], tuple[HistoryEvent, ...], tuple[str, ...]]:
    """Return what the first stage and the model read of a history, and the items' ids."""
    known = [
        (catalog_snapshot.by_id[one.item_id], one)
        for one in inputs.history
        if one.item_id in catalog_snapshot.by_id
    ]
    return (
        [Event(item.item_index, one.rating, one.timestamp) for item, one in known],
        tuple(HistoryEvent(item.item_index, one.rating, item.title) for item, one in known),
        tuple(item.id for item, _ in known),
    )


def _only(
    item_indices: Collection[int], size: int, allowed: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return by slot whether it is one of these and allowed."""
    mask = np.zeros(size, np.bool_)
    mask[list(item_indices)] = True
    return mask if allowed is None else mask & allowed
