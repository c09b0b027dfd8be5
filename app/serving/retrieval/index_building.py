"""Build the candidate index and the catalog snapshot from one database snapshot."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.domain.requests import Scope
from app.services.entity_tags import TagVersions
from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
from app.serving.retrieval.histories import HistoriesBuilder
from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.retrieval.candidate_index import CandidateIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Item
    from app.services.pseudonyms import Pseudonyms
    from app.serving.retrieval.histories import StoredHistory
    from app.storage.unit_of_work import UnitOfWork
    from models.retrieval.shared_map import SharedMap


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """An index that is not changed any more, with its catalog.

    Byte for byte, the index is the one that is built from the usable data at `version`, except that
    some changes after `version` may already be contained.
    """

    index: CandidateIndex
    catalog: CatalogSnapshot
    #: The data version up to which all changes are contained.
    version: int
    #: The data version of the snapshot that the catalog was read from.
    catalog_version: int
    #: The items of open deletion requests; their ratings are not counted.
    suppressed_items: frozenset[str]
    #: The users' histories at `version`, without users who are suppressed.
    histories: SharedMap[StoredHistory]
    #: The versions in entity tags at `version`.
    tag_versions: TagVersions


def build_index(uow: UnitOfWork, pseudonyms: Pseudonyms) -> IndexState:
    """Count all interactions of the snapshot except suppressed interactions."""
    items = uow.people.items()
    suppressed_items = frozenset(uow.requests.open_item_ids())
    interactions, histories = _unsuppressed_interactions(uow, pseudonyms, items, suppressed_items)
    index, catalog = CandidateIndex.build(interactions), CatalogSnapshot(items)
    describe(index, catalog)
    for item in items:
        if item.retired:
            index.retire(item.item_index)
    index.settle()
    version = uow.state.data_version()
    return IndexState(
        index=index,
        catalog=catalog,
        version=version,
        catalog_version=version,
        suppressed_items=suppressed_items,
        histories=histories,
        tag_versions=TagVersions.of_log(uow.state.newest_changes(0), version),
    )


def describe(index: CandidateIndex, catalog: CatalogSnapshot) -> None:
    """Let the index propose the items of this catalog, and no retired items."""
    retired = [item.item_index for item in catalog.by_item_index.values() if item.retired]
    index.hide(retired)
    index.grow(catalog.size)
    index.describe({item.item_index: item.attributes for item in catalog.by_id.values()})


def _unsuppressed_interactions(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    items: Sequence[Item],
    suppressed_items: frozenset[str],
) -> tuple[Interactions, SharedMap[StoredHistory]]:
    """Read all interactions except those of suppressed users, items and pairs, and histories.

    Rows are streamed into typed columns: a row takes 20 bytes, and millions of rows as Python
    objects would take gigabytes. A keyed hash per row takes longer than everything else together,
    so pairs are hashed only if a suppressed pair exists.
    """
    item_indices = {item.id: item.item_index for item in items}
    item_count = 1 + max(item_indices.values(), default=-1)
    suppressed_users = uow.suppressions.hashes_of(Scope.USER)
    suppressed_pairs = uow.suppressions.hashes_of(Scope.USER_ITEMS)
    is_suppressed: dict[str, bool] = {}
    user_indices: dict[str, int] = {}
    columns = array("i"), array("i"), array("f"), array("q")
    histories = HistoriesBuilder()
    for row, _, version in uow.people.recorded_interactions():
        if suppressed_users:
            if row.user_id not in is_suppressed:
                is_suppressed[row.user_id] = pseudonyms.user(row.user_id) in suppressed_users
            if is_suppressed[row.user_id]:
                continue
        is_pair_suppressed = bool(suppressed_pairs) and (
            pseudonyms.interaction(row.user_id, row.item_id) in suppressed_pairs
        )
        histories.add(
            row.user_id, item_indices[row.item_id], row.rating, version, is_pair_suppressed
        )
        if is_pair_suppressed or row.item_id in suppressed_items:
            continue
        columns[0].append(user_indices.setdefault(row.user_id, len(user_indices)))
        columns[1].append(item_indices[row.item_id])
        columns[2].append(row.rating)
        columns[3].append(row.timestamp)
    counted = Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in user_indices),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(item_count)),
        user=np.array(columns[0], np.int32),
        item=np.array(columns[1], np.int32),
        rating=np.array(columns[2], np.float32),
        timestamp=np.array(columns[3], np.int64),
    )
    return counted, histories.build()
