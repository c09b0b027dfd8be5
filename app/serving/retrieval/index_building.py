"""Build the candidate index and the catalog snapshot from one database snapshot."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.retrieval.candidate_index import CandidateIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Item
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


@dataclass(slots=True)
class IndexWithCatalog:
    """A candidate index and its catalog, at data version `version`."""

    index: CandidateIndex
    catalog: CatalogSnapshot
    version: int

    def replace_catalog(self, items: Sequence[Item]) -> None:
        """Replace the catalog snapshot, and update the index for new and newly retired items."""
        for item in items:
            before = self.catalog.by_item_index.get(item.item_index)
            if item.retired and (before is None or not before.retired):
                self.index.retire(item.item_index)
        self.catalog = CatalogSnapshot(items)
        self.index.grow(self.catalog.size)
        self.index.describe(
            {item.item_index: item.attributes for item in self.catalog.by_id.values()}
        )


def build_index(uow: UnitOfWork, pseudonyms: Pseudonyms) -> IndexWithCatalog:
    """Count all interactions of the snapshot except suppressed interactions."""
    items = uow.people.items()
    index = CandidateIndex.build(_unsuppressed_interactions(uow, pseudonyms, items))
    state = IndexWithCatalog(index, CatalogSnapshot(), uow.state.data_version())
    state.replace_catalog(items)
    return state


def _unsuppressed_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, items: Sequence[Item]
) -> Interactions:
    """Read all interactions except those of suppressed users, items and pairs.

    Rows are streamed into typed columns: a row takes 20 bytes, and millions of rows as Python
    objects would take gigabytes.
    """
    item_indices = {item.id: item.item_index for item in items}
    item_count = 1 + max(item_indices.values(), default=-1)
    suppressed_hashes = uow.suppressions.all_hashes()
    suppressed_items = uow.requests.open_item_ids() if suppressed_hashes else set()
    is_suppressed: dict[str, bool] = {}
    user_indices: dict[str, int] = {}
    columns = array("i"), array("i"), array("f"), array("q")
    for row in uow.people.interactions():
        if suppressed_hashes:
            if row.user_id not in is_suppressed:
                is_suppressed[row.user_id] = pseudonyms.user(row.user_id) in suppressed_hashes
            if is_suppressed[row.user_id] or row.item_id in suppressed_items:
                continue
            if pseudonyms.interaction(row.user_id, row.item_id) in suppressed_hashes:
                continue
        columns[0].append(user_indices.setdefault(row.user_id, len(user_indices)))
        columns[1].append(item_indices[row.item_id])
        columns[2].append(row.rating)
        columns[3].append(row.timestamp)
    return Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in user_indices),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(item_count)),
        user=np.array(columns[0], np.int32),
        item=np.array(columns[1], np.int32),
        rating=np.array(columns[2], np.float32),
        timestamp=np.array(columns[3], np.int64),
    )
