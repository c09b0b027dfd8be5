"""Keep deletions and changes of the catalog on top of an index, as one view that queries read.

A view never changes. The index follows the change log in the background, so it may lag behind.
Deletions and changes of the catalog do not wait for it: a view with the same index takes their
place within a millisecond per deletion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.domain.catalog import CATALOG_KINDS, NO_USER
from app.services.recommendation_inputs import VISITOR_ID
from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
from app.serving.retrieval.index_building import describe
from app.serving.retrieval.index_updates import events_of

if TYPE_CHECKING:
    from app.services.recommendation_inputs import Inputs
    from app.serving.retrieval.index_building import IndexState
    from app.storage.unit_of_work import UnitOfWork
    from models.retrieval.candidate_index import CandidateIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexView:
    """An index without everything that was forgotten up to data version `version`."""

    state: IndexState
    #: `state.index` without the ratings of the users in `forgotten`, with the items of `catalog`.
    index: CandidateIndex
    catalog: CatalogSnapshot
    catalog_version: int
    version: int
    #: Version and user of the deletions after `state.version`. All ratings of the user are left
    #: out until the index follows, also if only some were forgotten.
    forgotten: tuple[tuple[int, str], ...] = ()

    @staticmethod
    def of(state: IndexState) -> IndexView:
        """Return a view of the index itself."""
        return IndexView(
            state=state,
            index=state.index,
            catalog=state.catalog,
            catalog_version=state.catalog_version,
            version=state.version,
        )

    def advanced(self, uow: UnitOfWork, version: int) -> tuple[IndexView, list[str | None]] | None:
        """Return the view at the data version of this snapshot, and the users who changed.

        None in the list stands for any user. Return None if only a new index is safe: the log is
        incomplete, or the user of a deletion is not named any more.
        """
        changes = uow.state.urgent_changes(self.version)
        if not changes or changes[0].version != self.version + 1:
            return None
        deletions = [change for change in changes if change.kind == "forget"]
        if any(change.user_id is None for change in deletions):
            return None
        named = [
            (change.version, change.user_id)
            for change in deletions
            if change.user_id is not None and change.user_id != NO_USER
        ]
        view = replace(self, version=version).without_users(named)
        if any(change.kind in CATALOG_KINDS for change in changes):
            view = view.with_catalog(CatalogSnapshot(uow.people.items()), version)
        concerned: list[str | None] = [user_id for _, user_id in named]
        if len(named) < len(deletions):
            concerned = [None]  # Items are in the histories of many users.
        return view, concerned

    def rebased(self, state: IndexState) -> IndexView:
        """Return the same view of a newer index."""
        view = replace(IndexView.of(state), version=max(self.version, state.version))
        view = view.without_users([entry for entry in self.forgotten if entry[0] > state.version])
        if self.catalog_version > state.catalog_version:
            view = view.with_catalog(self.catalog, self.catalog_version)
        return view

    def index_for(self, inputs: Inputs) -> CandidateIndex:
        """Return the index with the asker's own writes, for this answer only."""
        if inputs.user.id == VISITOR_ID:
            return self.index
        own = inputs.user_version
        if own is not None and own.newest <= self.state.version:
            return self.index
        user_id = inputs.user.id
        return self.index.overlaid(events_of(self.catalog, {user_id: inputs.history}))

    def without_users(self, forgotten: list[tuple[int, str]]) -> IndexView:
        """Return the view without these users, who are given with the version of the deletion."""
        if not forgotten:
            return self
        return replace(
            self,
            index=self.index.overlaid({user_id: () for _, user_id in forgotten}),
            forgotten=(*self.forgotten, *forgotten),
        )

    def with_catalog(self, catalog: CatalogSnapshot, version: int) -> IndexView:
        """Return the view with the catalog that was read at this data version."""
        index = self.index.copy()
        describe(index, catalog)
        index.settle()
        return replace(self, index=index, catalog=catalog, catalog_version=version)
