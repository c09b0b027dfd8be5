"""Counts the first stage anew from one snapshot, and takes its catalogue over.

Knows the database and what is suppressed in it; knows nothing of the change log or of requests.
"""

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
    from app.services.ports import UnitOfWork
    from app.services.pseudonyms import Pseudonyms


@dataclass(slots=True)
class IndexWithCatalog:
    """An index and the catalogue that it counts over, as of `version`."""

    index: CandidateIndex
    catalog_snapshot: CatalogSnapshot
    version: int

    def take_catalog(self, items: Sequence[Item]) -> None:
        """Take titles and attributes anew, and retire what has been retired since."""
        for item in items:
            before = self.catalog_snapshot.by_item_index.get(item.item_index)
            if item.retired and (before is None or not before.retired):
                self.index.retire(item.item_index)
        self.catalog_snapshot = CatalogSnapshot(items)
        self.index.grow(self.catalog_snapshot.size)
        self.index.describe(
            {item.item_index: item.attributes for item in self.catalog_snapshot.by_id.values()}
        )


def build_index(uow: UnitOfWork, pseudonyms: Pseudonyms) -> IndexWithCatalog:
    """Count the whole snapshot, leaving out everything that is suppressed in it."""
    items = uow.people.items()
    index = CandidateIndex.build(_usable_interactions(uow, pseudonyms, items))
    counted = IndexWithCatalog(index, CatalogSnapshot(), uow.state.data_version())
    counted.take_catalog(items)
    return counted


def _usable_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, items: Sequence[Item]
) -> Interactions:
    """Stream all interactions but those of suppressed users, items and pairs into columns.

    A row takes 20 bytes, because millions of them as Python objects would take gigabytes.
    """
    item_indices = {item.id: item.item_index for item in items}
    catalog = 1 + max(item_indices.values(), default=-1)
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
        columns[1].append(item_indices[one.item_id])
        columns[2].append(one.rating)
        columns[3].append(one.timestamp)
    return Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in users),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(catalog)),
        user=np.array(columns[0], np.int32),
        item=np.array(columns[1], np.int32),
        rating=np.array(columns[2], np.float32),
        timestamp=np.array(columns[3], np.int64),
    )
