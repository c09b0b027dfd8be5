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
    from app.domain.standing import Standing
    from app.services.entity_tags import TagVersions
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
    #: The items of open deletion requests.
    suppressed_items: frozenset[str]
    #: The versions in entity tags.
    tag_versions: TagVersions

    @staticmethod
    def of(state: IndexState) -> IndexView:
        """Return a view of the index itself."""
        return IndexView(
            state=state,
            index=state.index,
            catalog=state.catalog,
            catalog_version=state.catalog_version,
            version=state.version,
            suppressed_items=state.suppressed_items,
            tag_versions=state.tag_versions,
        )

    def covers(self, standing: Standing) -> bool:
        """Return whether this view has all deletions and all of the catalog of a snapshot.

        `standing` must contain the changes after `self.state.version`.
        """
        changes = standing.changes
        return (
            standing.data_version >= self.version
            and changes.is_complete
            and max(changes.overtaking, changes.cancel) <= self.version
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
        view = replace(
            self,
            version=version,
            tag_versions=self.tag_versions.after((c.kind, c.version) for c in changes),
        ).without_users(named)
        if len(named) < len(deletions) or any(change.kind == "cancel" for change in changes):
            view = replace(view, suppressed_items=frozenset(uow.requests.open_item_ids()))
        if any(change.kind in CATALOG_KINDS for change in changes):
            view = view.with_catalog(CatalogSnapshot(uow.people.items()), version)
        concerned: list[str | None] = [user_id for _, user_id in named]
        if len(named) < len(deletions):
            concerned = [None]  # Items are in the histories of many users.
        return view, concerned

    def rebased(self, state: IndexState) -> IndexView:
        """Return the same view of a newer index."""
        view = IndexView.of(state)
        if self.version > state.version:
            # Both are from after `state.version`. An item too many is left out for one more slice.
            view = replace(
                view,
                version=self.version,
                suppressed_items=state.suppressed_items | self.suppressed_items,
                tag_versions=self.tag_versions,
            )
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
