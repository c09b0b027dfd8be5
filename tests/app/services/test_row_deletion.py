"""Interactions are deleted in short transactions that do not need the data lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import NO_USER, Interaction, ItemOrigin
from app.domain.errors import LeaseLostError
from app.domain.jobs import JobStatus, Lease
from app.services.completion import delete_rows
from app.services.jobs import advance
from app.services.row_deletion import delete_in_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.storage.unit_of_work import UnitOfWorkFactory
    from tests.app.conftest import Forget


@pytest.fixture
def lease(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease]
) -> Callable[..., Lease]:
    """Return a function that starts the job of a deletion and moves the job past the flip."""

    def start(*subject: str, **options: str) -> Lease:
        forget(*subject, **options)
        lease = start_job()
        with catalog() as uow:
            advance(uow, lease, status=JobStatus.ROLLING_OUT)
        return lease

    return start


def state(factory: UnitOfWorkFactory, lease: Lease) -> dict[str, Any]:
    """Return the numbers of interactions, in the tables and as recorded for the certificate."""
    with factory(write=False) as uow:
        (request,) = uow.requests.of_job(lease.job_id)
        return {
            "left": uow.people.counts()["interactions"],
            "of the job": uow.jobs.get(lease.job_id).metrics.get("rows_deleted", 0),
            "of the request": (request.rows_deleted or {}).get("interactions", 0),
        }


def finish(factory: UnitOfWorkFactory, lease: Lease) -> int:
    with factory() as uow:
        return delete_rows(uow, lease)


def test_rows_of_a_user_are_deleted_and_counted_in_chunks(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease("ann")
    assert list(delete_in_chunks(catalog, started, chunk=3)) == [3, 1]
    assert state(catalog, started) == {"left": 4, "of the job": 4, "of the request": 4}
    with catalog(write=False) as uow:
        assert uow.people.user("ann") is not None  # The rest is deleted under the lock.
    assert finish(catalog, started) == 0
    assert state(catalog, started)["of the request"] == 4
    with catalog(write=False) as uow:
        assert uow.people.user("ann") is None


def test_killed_worker_loses_no_row_and_no_number(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease(item_id="i0")
    chunks = delete_in_chunks(catalog, started, chunk=2)
    assert next(chunks) == 2
    chunks.close()
    assert state(catalog, started) == {"left": 6, "of the job": 2, "of the request": 2}
    assert list(delete_in_chunks(catalog, started, chunk=2)) == [1]
    finish(catalog, started)
    assert state(catalog, started) == {"left": 5, "of the job": 3, "of the request": 3}


def test_log_does_not_show_who_rated_a_deleted_item(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease(item_id="i0")
    list(delete_in_chunks(catalog, started, chunk=2))
    with catalog(write=False) as uow:
        assert {change.user_id for change in uow.state.changes_since(0)} == {NO_USER}


def test_some_interactions_of_a_user_are_deleted(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease("ann", "i1", "i3")
    assert sum(delete_in_chunks(catalog, started, chunk=1)) == 2
    finish(catalog, started)
    with catalog(write=False) as uow:
        assert [row.item_id for row in uow.people.history("ann")] == ["i0", "i2"]


def test_rows_that_keep_an_item_stay_for_the_transaction_that_retires_it(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    named = [("only ann", "", {}), ("also bob", "", {})]
    with catalog() as uow:
        uow.people.upsert_items(named, ItemOrigin.RATINGS)
        rows = [("ann", "only ann"), ("ann", "also bob"), ("bob", "also bob")]
        uow.people.upsert_interactions(
            [Interaction(user_id=u, item_id=i, rating=1.0, timestamp=1) for u, i in rows], version=0
        )
    started = lease("ann")
    assert sum(delete_in_chunks(catalog, started, chunk=2)) == 5
    with catalog(write=False) as uow:
        assert [row.item_id for row in uow.people.history("ann")] == ["only ann"]
    assert finish(catalog, started) == 1
    with catalog(write=False) as uow:
        assert uow.people.known_items(["only ann", "also bob"]) == {"also bob"}
    assert state(catalog, started)["of the job"] == 5  # `delete_rows` leaves this to the worker.
    assert state(catalog, started)["of the request"] == 6


def test_worker_without_its_lease_deletes_nothing(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease("ann")
    stale = Lease(job_id=started.job_id, epoch=started.epoch - 1, owner=started.owner)
    with pytest.raises(LeaseLostError):
        next(delete_in_chunks(catalog, stale))
    assert state(catalog, started)["left"] == 8


@pytest.mark.parametrize(
    "database", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_chunks_do_not_wait_for_the_data_lock(
    catalog: UnitOfWorkFactory, lease: Callable[..., Lease]
) -> None:
    started = lease("ann")
    with catalog() as holder:
        holder.state.lock()
        assert sum(delete_in_chunks(catalog, started, chunk=3)) == 4
