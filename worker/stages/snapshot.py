"""Take a snapshot of the data that a job works on, in one read transaction.

Rows of suppressed users, pairs and items that a later batch will forget are left out, so that no
new weights are trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.requests import Scope
from models.data.interactions import Interactions, ItemRecord, UserRecord
from worker.learner import DataSnapshot, ForgetSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Interaction, Item, RecordedInteraction
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

#: Part of the ids of placeholder items. Sharding hashes item ids, so the text must not change.
_PLACEHOLDER: Final = "slot"


def take_snapshot(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, *, job_id: str
) -> DataSnapshot:
    """Read the data, what the job's requests forget, and the holdout users."""
    with uow_factory(write=False) as uow:
        version = uow.state.data_version()
        requests = uow.requests.of_job(job_id)
        own_hashes = {digest for request in requests for digest in request.subject_hashes}
        forget = forget_set(requests)
        suppressed_hashes = uow.suppressions.all_hashes()
        later = _LaterBatches(suppressed_hashes - own_hashes, pseudonyms, forget)
        holdout_users = uow.people.holdout_users()
        drawn_times = uow.state.drawn_times()
        data, first_version, last_version, incomplete = _read(uow, later)
    return DataSnapshot(
        version=version,
        data=data,
        forget=forget,
        holdout=frozenset(user.id for user in data.users if user.id in holdout_users),
        job_id=job_id,
        requests={request.id: forget_set([request]) for request in requests if request.subject},
        first_version=first_version,
        last_version=last_version,
        excluded=frozenset(suppressed_hashes | own_hashes),
        pseudonyms=pseudonyms,
        incomplete=incomplete,
        drawn_times=drawn_times,
    )


def stamp_unknown_versions(uow_factory: UnitOfWorkFactory) -> None:
    """Give a new data version to rows that gateways of the previous version wrote.

    A snapshot that is read afterwards is not older than that version, so an exact training on the
    snapshot knows the rows.
    """
    with uow_factory(write=False) as uow:
        if not uow.people.has_unknown_versions():
            return
    with uow_factory() as uow:
        uow.state.allow_long()
        uow.state.lock()
        uow.people.stamp_unknown_versions(uow.state.bump("interactions"))


def forget_set(requests: Iterable[ForgetRequest]) -> ForgetSet:
    """Return the union of the requests' subjects; a completed request has none."""
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
class _LaterBatches:
    """The suppressed users, items and pairs that this batch does not forget."""

    hashes: set[str]
    pseudonyms: Pseudonyms
    forget: ForgetSet

    def has_user(self, user_id: str) -> bool:
        return bool(self.hashes) and self.pseudonyms.user(user_id) in self.hashes

    def has_item(self, item_id: str) -> bool:
        return bool(self.hashes) and self.pseudonyms.item(item_id) in self.hashes

    def has_pair(self, row: Interaction) -> bool:
        digest = self.pseudonyms.interaction
        return bool(self.hashes) and digest(row.user_id, row.item_id) in self.hashes

    def is_of_this_batch(self, row: Interaction) -> bool:
        """Return whether this batch forgets the row. The snapshot must contain such rows."""
        return (
            row.user_id in self.forget.users
            or row.item_id in self.forget.items
            or (row.user_id, row.item_id) in self.forget.pairs
        )


def _read(
    uow: UnitOfWork, later: _LaterBatches
) -> tuple[Interactions, NDArray[np.int64], NDArray[np.int64], frozenset[str]]:
    """Return the interactions, the versions of the first and last write of each row, and users.

    These are the users of whom this batch forgets a row and a later batch another row.
    """
    items = _by_item_index(uow.people.items())
    item_indices = {item.id: index for index, item in enumerate(items)}
    later_items = {item.id for item in items if later.has_item(item.id)}
    stored_users = list(uow.people.users())
    later_users = {user.id for user in stored_users if later.has_user(user.id)}
    recorded: list[RecordedInteraction] = []
    users_of_batch: set[str] = set()
    users_left_out: set[str] = set()
    for record in uow.people.recorded_interactions():
        row = record.interaction
        if later.is_of_this_batch(row):
            users_of_batch.add(row.user_id)
        elif row.user_id in later_users or row.item_id in later_items or later.has_pair(row):
            users_left_out.add(row.user_id)
            continue
        recorded.append(record)
    rows = [record.interaction for record in recorded]
    # A user of a later batch stays if this batch forgets one of the user's rows.
    users_with_rows = later_users.intersection(row.user_id for row in rows)
    users = [
        user for user in stored_users if user.id not in later_users or user.id in users_with_rows
    ]
    user_indices = {user.id: index for index, user in enumerate(users)}
    data = Interactions(
        users=tuple(UserRecord(id=user.id, attributes=user.attributes) for user in users),
        items=tuple(items),
        user=np.fromiter((user_indices[row.user_id] for row in rows), np.int32, len(rows)),
        item=np.fromiter((item_indices[row.item_id] for row in rows), np.int32, len(rows)),
        rating=np.fromiter((row.rating for row in rows), np.float32, len(rows)),
        timestamp=np.fromiter((row.timestamp for row in rows), np.int64, len(rows)),
    )
    return (
        data,
        np.fromiter((record.first_version for record in recorded), np.int64, len(recorded)),
        np.fromiter((record.last_version for record in recorded), np.int64, len(recorded)),
        frozenset(users_of_batch & users_left_out),
    )


def _by_item_index(items: Sequence[Item]) -> list[ItemRecord]:
    """Return the records in order of item index, with placeholders for unused indices."""
    size = max((item.item_index for item in items), default=-1) + 1
    records = [ItemRecord(id=f"\0{_PLACEHOLDER} {index}", title="") for index in range(size)]
    for item in items:
        attributes = {name: tuple(values) for name, values in item.attributes_for_models.items()}
        records[item.item_index] = ItemRecord(
            id=item.id,
            title=item.title_for_models,
            attributes=attributes,
            from_ratings=item.is_from_ratings,
        )
    return records
