"""Follow the change log in slices: each slice gives a new index and leaves the present one alone.

A slice takes about five statements, however many users it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.catalog import CATALOG_KINDS, NO_USER, USER_KINDS
from app.services.recommendation_inputs import rows_of_users
from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
from app.serving.retrieval.histories import RESTRICTED, StoredHistory
from app.serving.retrieval.index_building import IndexState, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.catalog import DataChange, Interaction
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import UserRows
    from app.storage.unit_of_work import UnitOfWork
    from models.retrieval.candidate_index import CandidateIndex

#: Entries of the change log in one slice.
SLICE_ENTRIES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The index after some entries of the change log, and the users whom these entries name.

    `user_ids` contains None if the entries may concern any user.
    """

    state: IndexState
    user_ids: tuple[str | None, ...]


def can_follow(uow: UnitOfWork, state: IndexState, version: int) -> bool:
    """Return whether the change log leads to this data version faster than a new index.

    Entries without a user may concern any user: they come from imports, and from users whose
    deletion has completed. An incomplete log could hide a deletion.
    """
    pending = uow.state.pending_changes(state.version, USER_KINDS)
    return (
        pending.entries == version - state.version
        and not pending.unnamed
        and pending.users <= max(SLICE_ENTRIES, len(state.index) // 2)
    )


def next_slice(uow: UnitOfWork, pseudonyms: Pseudonyms, state: IndexState) -> Slice:
    """Apply the next entries of the change log to a copy of the index."""
    changes = uow.state.changes_since(state.version, SLICE_ENTRIES)
    index, catalog, catalog_version = state.index.copy(), state.catalog, state.catalog_version
    if any(change.kind in CATALOG_KINDS for change in changes):
        catalog, catalog_version = _renew_catalog(uow, index, catalog)
    suppressed_items = frozenset(uow.requests.open_item_ids())
    for item_id in suppressed_items - state.suppressed_items:
        if item_id in catalog.by_id:
            item_index = catalog.by_id[item_id].item_index
            index.remove_item(item_index, index.raters_of(item_index))
    user_ids = _named_users(changes)
    rows = rows_of_users(uow, pseudonyms, user_ids)
    usable = {user_id: of_user.history(suppressed_items) for user_id, of_user in rows.items()}
    index.replace_users(events_of(catalog, usable))
    histories = state.histories.copy()
    for user_id, of_user in rows.items():
        histories.put(user_id, stored_history(catalog, of_user))
    index.settle()
    is_named = all(change.user_id != NO_USER for change in changes)
    return Slice(
        state=IndexState(
            index=index,
            catalog=catalog,
            version=changes[-1].version,
            catalog_version=catalog_version,
            suppressed_items=suppressed_items,
            histories=histories,
            tag_versions=state.tag_versions.after(
                (change.kind, change.version) for change in changes
            ),
        ),
        user_ids=tuple(user_ids) if is_named else (None,),
    )


def stored_history(catalog: CatalogSnapshot, of_user: UserRows) -> StoredHistory | None:
    """Return the history to keep in memory; None for a user without rows."""
    if of_user.suppressed_item_ids:
        return RESTRICTED
    items = catalog.by_id
    rows = [
        (items[row.item_id].item_index, row.rating, version)
        for row, _, version in of_user.rows
        if row.item_id in items
    ]
    return StoredHistory.of(rows) if rows else None


def events_of(
    catalog: CatalogSnapshot, histories: Mapping[str, Iterable[Interaction]]
) -> dict[str, list[tuple[int, float, int]]]:
    """Return the histories as (item index, rating, timestamp), without items not in the catalog."""
    items = catalog.by_id
    return {
        user_id: [
            (items[event.item_id].item_index, event.rating, event.timestamp)
            for event in history
            if event.item_id in items
        ]
        for user_id, history in histories.items()
    }


def _renew_catalog(
    uow: UnitOfWork, index: CandidateIndex, before: CatalogSnapshot
) -> tuple[CatalogSnapshot, int]:
    """Read the catalog, and remove the ratings of newly retired items."""
    catalog = CatalogSnapshot(uow.people.items())
    describe(index, catalog)
    for item_index, item in catalog.by_item_index.items():
        known = before.by_item_index.get(item_index)
        if item.retired and (known is None or not known.retired):
            index.retire(item_index)
    return catalog, uow.state.data_version()


def _named_users(changes: Iterable[DataChange]) -> list[str]:
    return sorted(
        {change.user_id for change in changes if change.user_id and change.kind in USER_KINDS}
    )
