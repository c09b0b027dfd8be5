"""Delete interactions of a job's subjects in short transactions, without the data lock.

`app.services.completion.delete_rows` then deletes the rest and all plain ids under the lock, which
blocks every change of data, so the rest should be small. The order is safe: the subjects are
suppressed, so no process reads or stores their interactions, and a job past the flip only moves
forward. Interactions that decide whether an item is retired stay for the transaction under the
lock, because that decision must not be lost if the worker is killed in between.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from app.domain.jobs import Stage
from app.domain.requests import Scope
from app.services.jobs import advance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest, Subject
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

#: Interactions per transaction.
CHUNK: Final = 500


def delete_in_chunks(factory: UnitOfWorkFactory, lease: Lease, chunk: int = CHUNK) -> Iterator[int]:
    """Delete interactions of the job's subjects; yield their number after each transaction.

    Each transaction adds its number to the request and to the job's metric `rows_deleted`. Raises
    LeaseLostError. A repeated call continues with what is left.
    """
    with factory(write=False) as uow:
        requests = [r for r in uow.requests.of_job(lease.job_id) if r.subject is not None]
    users = {r.subject.user_id for r in requests if r.subject and r.subject.user_id is not None}
    for request in requests:
        subject = request.subject
        if subject is None:
            continue
        if subject.user_id is None:
            for item_id in subject.item_ids:
                yield from _of_item(factory, lease, request.id, item_id, chunk)
        else:
            yield from _of_user(factory, lease, request, users, chunk)


def _of_item(
    factory: UnitOfWorkFactory, lease: Lease, request_id: str, item_id: str, chunk: int
) -> Iterator[int]:
    while True:
        with factory() as uow:
            uow.jobs.update(lease, stage=Stage.DELETE_ROWS)
            user_ids = uow.people.some_raters_of(item_id, chunk)
            if not user_ids:
                return
            # The entries would still show who rated the item.
            cleared = uow.state.forget_users_in_log(sorted(user_ids))
            deleted = uow.people.delete_ratings_of_item(item_id, sorted(user_ids))
            _count(uow, lease, request_id, Counter(data_changes=cleared, interactions=deleted))
        yield deleted


def _of_user(
    factory: UnitOfWorkFactory,
    lease: Lease,
    request: ForgetRequest,
    users: set[str],
    chunk: int,
) -> Iterator[int]:
    subject = request.subject
    if subject is None or subject.user_id is None:
        return
    after = ""
    while True:
        with factory() as uow:
            uow.jobs.update(lease, stage=Stage.DELETE_ROWS)
            page = uow.people.item_ids_of(subject.user_id, after, chunk)
            if not page:
                return
            after = page[-1]
            own_ids = _in_scope(subject, page)
            item_ids = uow.people.items_that_stay(own_ids, without=users)
            deleted = uow.people.delete_interactions(subject.user_id, item_ids)
            if deleted:
                _count(uow, lease, request.id, Counter(interactions=deleted))
        yield deleted


def _in_scope(subject: Subject, item_ids: list[str]) -> list[str]:
    if subject.scope is Scope.USER:
        return item_ids
    return sorted(set(subject.item_ids).intersection(item_ids))


def _count(uow: UnitOfWork, lease: Lease, request_id: str, rows: Counter[str]) -> None:
    """Add the numbers to the request and to the job, in the transaction of the deletion."""
    stored = uow.requests.get(request_id).rows_deleted or {}
    earlier = Counter({table: int(number) for table, number in stored.items()})
    uow.requests.write_rows_deleted(request_id, {**(earlier + rows)})
    total = uow.jobs.get(lease.job_id).metrics.get("rows_deleted", 0) + rows["interactions"]
    advance(uow, lease, metrics={"rows_deleted": total})
