"""Keeps the first stage and the catalogue in step with the data, through the change log.

A deletion is applied before any answer that is read after it; statistics that merely lack new
ratings may lag until the next rebuild off the path.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import GoneError, UnknownUserError
from app.services.recommendation_inputs import read_inputs
from models.candidates import CandidateIndex, Event
from models.datasets.interactions import Interactions, ItemRecord, UserRecord
from models.requests import HistoryEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.catalogue import Item
    from app.services.ports import UnitOfWork, UnitOfWorkFactory
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs

#: Beyond this many changed users, counting everything anew is the faster way.
_MOST_CHANGED_USERS: Final = 500
#: Taking a person out must never wait for a rebuild off the path.
_NEVER_WAITS: Final = frozenset({"forget"})


@dataclass(slots=True)
class _State:
    """An index and the catalogue that it counts over, as of `version`."""

    index: CandidateIndex
    slots: dict[str, Item]
    by_slot: dict[int, Item]
    version: int
    #: The slots of items that are off the shelf.
    withdrawn: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Proposal:
    """The items proposed to one user, and the usable history, oldest first."""

    items: tuple[Item, ...]
    history: tuple[HistoryEvent, ...]


class Candidates:
    """The first stage of every recommendation on this replica; thread-safe."""

    def __init__(self, uow: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
        """Start empty; the first `rebuild` fills it."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._lock = threading.Lock()
        self._rebuilding = threading.Lock()
        self._state: _State | None = None
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
            done = self._state is not None and self._advance(uow, self._state)
        if not done:
            self.rebuild()

    def rebuild(self) -> None:
        """Count everything anew from one snapshot, while the present statistics keep answering."""
        with self._rebuilding:
            with self._uow(write=False) as uow:
                fresh = _build(uow, self._pseudonyms)
            with self._lock:
                if self._state is None or fresh.version >= self._state.version:
                    self._on_change(None)
                    self._state = fresh

    def propose(
        self, uow: UnitOfWork, inputs: Inputs, limit: int, *, exclude_seen: bool
    ) -> Proposal:
        """Propose up to `limit` items, none of them retired or asked to be forgotten.

        `uow` is the snapshot that the inputs were read from: every deletion in it is applied
        before anything is proposed.
        """
        with self._lock:
            state = self._state
            if state is None or not self._advance(uow, state, strict=False):
                self._on_change(None)
                state = self._state = _build(uow, self._pseudonyms)
            history = tuple(
                HistoryEvent(item.slot, one.rating, item.title)
                for one in inputs.history
                if (item := state.slots.get(one.item_id)) is not None
            )
            barred = set(inputs.suppressed_item_ids)
            if exclude_seen:
                barred |= inputs.seen_item_ids
            exclude = {state.slots[each].slot for each in barred if each in state.slots}
            exclude |= state.withdrawn
            events = [
                Event(item.slot, one.rating, one.timestamp)
                for one in inputs.history
                if (item := state.slots.get(one.item_id)) is not None
            ]
            proposed = state.index.propose(events, limit, barred=exclude)
            items = tuple(state.by_slot[slot] for slot in proposed.slots.tolist())
        return Proposal(items=items, history=history)

    def _advance(self, uow: UnitOfWork, state: _State, *, strict: bool = True) -> bool:
        """Apply what the log holds beyond `state.version`; False where only counting anew helps.

        Not `strict`: nameless ratings (of an import, or of people who are gone by now) may wait;
        the version then stays behind, and `follow` rebuilds off the path. `completed` entries
        change nothing: the person was taken out with the `forget` entry.
        """
        version = uow.state.data_version()
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
            _read_catalogue(uow, state)
        for user_id in users:
            self._on_change(user_id)
        self._replace(uow, state, users)
        if nameless:
            return not strict
        state.version = version
        return True

    def _replace(self, uow: UnitOfWork, state: _State, users: Sequence[str]) -> None:
        for user_id in users:
            try:
                history = read_inputs(uow, self._pseudonyms, user_id).history
            except (GoneError, UnknownUserError):
                history = ()
            state.index.replace_user(
                user_id,
                [
                    (state.slots[one.item_id].slot, one.rating, one.timestamp)
                    for one in history
                    if one.item_id in state.slots
                ],
            )


def _build(uow: UnitOfWork, pseudonyms: Pseudonyms) -> _State:
    """Count the whole snapshot, leaving out everything that is suppressed in it."""
    version = uow.state.data_version()
    items = uow.people.items()
    state = _State(CandidateIndex(), {}, {}, version)
    slots = {item.id: item.slot for item in items}
    catalogue = 1 + max((item.slot for item in items), default=-1)
    state.index = CandidateIndex.build(_usable_interactions(uow, pseudonyms, slots, catalogue))
    _read_catalogue(uow, state)
    return state


def _usable_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, slots: dict[str, int], catalogue: int
) -> Interactions:
    """Stream all interactions but those of suppressed users, items and pairs into columns.

    A row takes 20 bytes, because millions of them as Python objects would take gigabytes.
    """
    hashes = uow.suppressions.all_hashes()
    hidden = uow.requests.open_item_ids() if hashes else set()
    gone: dict[str, bool] = {}
    users: dict[str, int] = {}
    columns = array("i"), array("i"), array("f"), array("q")
    for one in uow.people.interactions():
        if hashes:
            if one.user_id not in gone:
                gone[one.user_id] = pseudonyms.user(one.user_id) in hashes
            if gone[one.user_id] or one.item_id in hidden:
                continue
            if pseudonyms.interaction(one.user_id, one.item_id) in hashes:
                continue
        user = users.setdefault(one.user_id, len(users))
        columns[0].append(user)
        columns[1].append(slots[one.item_id])
        columns[2].append(one.rating)
        columns[3].append(one.timestamp)
    return Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in users),
        items=tuple(ItemRecord(id=str(slot), title="") for slot in range(catalogue)),
        user=np.array(columns[0], np.int32),
        item=np.array(columns[1], np.int32),
        rating=np.array(columns[2], np.float32),
        timestamp=np.array(columns[3], np.int64),
    )


def _read_catalogue(uow: UnitOfWork, state: _State) -> None:
    """Read titles and attributes anew, and retire what has been retired since."""
    items = uow.people.items()
    for item in items:
        before = state.by_slot.get(item.slot)
        if item.retired and (before is None or not before.retired):
            state.index.retire(item.slot)
    state.slots = {item.id: item for item in items if not item.retired}
    state.by_slot = {item.slot: item for item in items}
    state.withdrawn = frozenset(item.slot for item in items if not item.available)
    state.index.grow(1 + max((item.slot for item in items), default=-1))
