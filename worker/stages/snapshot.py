"""Freezing: all that a job may look at, read in one transaction.

Rows of people, pairs and items that are suppressed but belong to a later batch are left out
altogether, so that no new weight is ever trained on them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.domain.requests import Scope
from models.data.interactions import Interactions, ItemRecord, UserRecord
from worker.learner import DataSnapshot, ForgetSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.domain.catalog import Interaction, Item
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory


def take_snapshot(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, *, job_id: str, holdout_share: float
) -> DataSnapshot:
    """Read the data of a job in one snapshot."""
    with uow_factory(write=False) as uow:
        version = uow.state.data_version()
        requests = uow.requests.of_job(job_id)
        own = {digest for request in requests for digest in request.subject_hashes}
        forget = forget_set(requests)
        others = _Suppressed(uow.suppressions.all_hashes() - own, pseudonyms, forget)
        data = _read(uow, others)
    return DataSnapshot(
        version=version,
        data=data,
        forget=forget,
        holdout=frozenset(
            user.id for user in data.users if pseudonyms.never_trained(user.id, holdout_share)
        ),
        job_id=job_id,
    )


def forget_set(requests: Iterable[ForgetRequest]) -> ForgetSet:
    """Return what these requests forget; one that has completed names nobody any more."""
    users: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    items: set[str] = set()
    for subject in (request.subject for request in requests if request.subject):
        if subject.scope is Scope.ITEM:
            items.update(subject.item_ids)
        elif subject.user_id is not None and subject.scope is Scope.USER:
            users.add(subject.user_id)
        elif subject.user_id is not None:
            pairs.update((subject.user_id, item_id) for item_id in subject.item_ids)
    return ForgetSet(users=frozenset(users), pairs=frozenset(pairs), items=frozenset(items))


@dataclass(frozen=True, slots=True)
class _Suppressed:
    """Says what a later batch will forget. What this batch forgets is never left out."""

    hashes: set[str]
    pseudonyms: Pseudonyms
    forget: ForgetSet

    def user(self, user_id: str) -> bool:
        return bool(self.hashes) and self.pseudonyms.user(user_id) in self.hashes

    def item(self, item_id: str) -> bool:
        return bool(self.hashes) and self.pseudonyms.item(item_id) in self.hashes

    def pair(self, row: Interaction) -> bool:
        digest = self.pseudonyms.interaction
        return bool(self.hashes) and digest(row.user_id, row.item_id) in self.hashes

    def forgotten_now(self, row: Interaction) -> bool:
        return (
            row.user_id in self.forget.users
            or row.item_id in self.forget.items
            or (row.user_id, row.item_id) in self.forget.pairs
        )


def _read(uow: UnitOfWork, others: _Suppressed) -> Interactions:
    items = _by_item_index(uow.people.items())
    item_indices = {item.id: item_index for item_index, item in enumerate(items)}
    late_items = {item.id for item in items if others.item(item.id)}
    people = list(uow.people.users())
    late_users = {user.id for user in people if others.user(user.id)}
    rows = [
        row
        for row in uow.people.interactions()
        if others.forgotten_now(row)
        or not (row.user_id in late_users or row.item_id in late_items or others.pair(row))
    ]
    kept = late_users.intersection(row.user_id for row in rows)
    users = [user for user in people if user.id not in late_users or user.id in kept]
    return _table(
        tuple(UserRecord(id=user.id, attributes=user.attributes) for user in users),
        tuple(items),
        item_indices,
        rows,
    )


def _by_item_index(items: Sequence[Item]) -> list[ItemRecord]:
    """Return records whose index is the item's slot; a slot that nobody holds gets a blank."""
    size = max((item.item_index for item in items), default=-1) + 1
    records = [ItemRecord(id=f"\0slot {item_index}", title="") for item_index in range(size)]
    for item in items:
        attributes = {name: tuple(values) for name, values in item.attributes.items()}
        records[item.item_index] = ItemRecord(id=item.id, title=item.title, attributes=attributes)
    return records


def _table(
    users: tuple[UserRecord, ...],
    items: tuple[ItemRecord, ...],
    item_indices: Mapping[str, int],
    rows: Iterable[Interaction],
) -> Interactions:
    index = {user.id: position for position, user in enumerate(users)}
    user, item = array("i"), array("i")
    rating, timestamp = array("f"), array("q")
    for row in rows:
        user.append(index[row.user_id])
        item.append(item_indices[row.item_id])
        rating.append(row.rating)
        timestamp.append(row.timestamp)
    return Interactions(
        users=users,
        items=items,
        user=np.array(user, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        rating=np.array(rating, dtype=np.float32),
        timestamp=np.array(timestamp, dtype=np.int64),
    )
