"""Hold the statistics from which items are proposed, and let them follow the change log.

Every deletion in a query's snapshot, every change of the catalog and the asker's own writes take
effect before the first stage proposes items. Ratings by other users may be missing from the
statistics until the background has counted them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from app.serving.retrieval.index_building import build_index
from app.serving.retrieval.index_updates import can_follow, next_slice
from app.serving.retrieval.index_view import IndexView

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.services.pseudonyms import Pseudonyms
    from app.serving.retrieval.index_building import IndexState
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory


class FirstStage:
    """The published view of co-occurrence statistics; one instance per replica. Thread-safe.

    Queries read the published view, which never changes. `follow` prepares the next index beside
    it. The lock only guards the exchange of the reference: no SQL and no counting happens under it.
    """

    def __init__(self, uow: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
        """Start without statistics; the first `rebuild` or query builds them."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        #: Guards the exchange of `_view`.
        self._lock = threading.Lock()
        #: Keeps two rebuilds from running at once: each takes the memory of a whole index. Queries
        #: wait for it only if they cannot be answered before the rebuild ends.
        self._rebuild_lock = threading.Lock()
        self._view: IndexView | None = None
        #: Counts the calls of `discard_newer`, so that no index from before is published.
        self._generation = 0
        self._on_change: Callable[[str | None], None] = lambda _: None

    def watch(self, on_change: Callable[[str | None], None]) -> None:
        """Call `on_change` with each changed user's id, or None if any user may have changed.

        The call precedes every use of the changed data, and it must neither block nor raise.
        """
        self._on_change = on_change

    @property
    def ready(self) -> bool:
        """Return whether the statistics have been built."""
        return self._view is not None

    @property
    def view(self) -> IndexView | None:
        """Return the published view, which may lack the newest changes; None without statistics."""
        return self._view

    @property
    def version(self) -> int:
        """Return the data version up to which all changes are counted; -1 without statistics."""
        view = self._view
        return -1 if view is None else view.state.version

    def __len__(self) -> int:
        """Return the number of users with interactions in the statistics."""
        view = self._view
        return 0 if view is None else len(view.index)

    def follow(self) -> None:
        """Apply the change log slice by slice, or build a new index; runs in the background."""
        target: int | None = None
        while True:
            view, generation = self._view, self._generation
            if view is None:
                self.rebuild()
                return
            with self._uow(write=False) as uow:
                version = uow.state.data_version()
                target = version if target is None else target
                if view.state.version >= target:
                    return
                # A slice that removes a popular item pauses for long between its statements.
                uow.state.allow_long()
                is_possible = can_follow(uow, view.state, version)
                update = next_slice(uow, self._pseudonyms, view.state) if is_possible else None
            if update is None:
                self.rebuild()
                return
            for user_id in update.user_ids:
                self._on_change(user_id)
            self._publish(update.state, generation)

    def discard_newer(self, version: int) -> None:
        """Discard statistics of a later data version: the database was restored from a backup."""
        with self._lock:
            self._generation += 1
            is_newer = self._view is not None and self._view.version > version
            if is_newer:
                self._view = None
        if is_newer:
            self._on_change(None)

    def rebuild(self) -> None:
        """Build a new index from one snapshot while the present index stays in use."""
        with self._rebuild_lock:
            generation = self._generation
            with self._uow(write=False) as uow:
                state = build_index(uow, self._pseudonyms)
            self._on_change(None)
            self._publish(state, generation)

    def current(self, uow: UnitOfWork, version: int) -> IndexView:
        """Return a view with every deletion of this snapshot, whose data version is `version`."""
        view = self._view
        if view is not None and view.version >= version:
            return view
        advanced = None if view is None else view.advanced(uow, version)
        if advanced is None:
            return self._rebuilt(uow, version)
        newer, user_ids = advanced
        for user_id in user_ids:
            self._on_change(user_id)
        with self._lock:
            if self._view is view:
                self._view = newer
        # If another view was published meanwhile, this one is still right for this snapshot.
        return newer

    def _rebuilt(self, uow: UnitOfWork, version: int) -> IndexView:
        """Build a new index from this snapshot, or return the one that another thread has built."""
        uow.state.allow_long()  # The database must not end the session while this thread waits.
        with self._rebuild_lock:
            view, generation = self._view, self._generation
            if view is not None and view.version >= version:
                return view
            state = build_index(uow, self._pseudonyms)
            self._on_change(None)
            self._publish(state, generation)
        return IndexView.of(state)

    def _publish(self, state: IndexState, generation: int) -> None:
        """Publish an index, unless a newer one is published or it was built before a restore."""
        while True:
            view = self._view
            if view is not None and state.version < view.state.version:
                return
            newer = IndexView.of(state) if view is None else view.rebased(state)
            with self._lock:
                if self._generation != generation:
                    return
                if self._view is view:
                    self._view = newer
                    return
            # A query has applied another deletion meanwhile: the index must not bring it back.
