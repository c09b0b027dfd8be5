"""Erasures that readers delay are owed, retried by every sweeper, and certified when closed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.jobs import JobStatus
from app.domain.requests import Outcome, RequestStatus
from app.domain.scrubs import ScrubKind
from app.services.certificates import Evidence, certificates_of, content_of
from app.services.completion import delete_rows, finish
from app.services.jobs import advance, fail
from app.services.scrubs import certify_closed, ready_for_certificate, wake_for_certificates
from app.storage.engine import make_database
from app.storage.maintenance import erase_remains
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.app.conftest import SETTINGS
from tests.support.processes import wait_until
from worker.scrubbing import erase_owed

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.services.signatures import Signer
    from app.storage.engine import Database
    from tests.app.conftest import Forget


def complete(factory: UnitOfWorkFactory, lease: Lease, signer: Signer) -> list[ForgetRequest]:
    """Complete the job as the worker does, with one try to erase the remains."""
    with factory() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
        delete_rows(uow, lease)
    erase_owed(factory)
    with factory() as uow:
        return finish(uow, lease, signer, Evidence(outcome=Outcome.NOT_APPLICABLE))


def kinds(factory: UnitOfWorkFactory) -> list[str]:
    with factory(write=False) as uow:
        return [scrub.kind for scrub in uow.scrubs.open_ones()]


def test_erasure_without_readers_is_closed_before_the_certificate(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease], signer: Signer
) -> None:
    forget("ann")
    (request,) = complete(catalog, start_job(), signer)
    assert kinds(catalog) == []
    with catalog(write=False) as uow:
        (certificate,) = certificates_of(uow, request.id)
    assert content_of(certificate.envelope)["open"] == []


def test_old_snapshot_keeps_the_erasure_open_until_it_ends(
    database: Database,
    catalog: UnitOfWorkFactory,
    forget: Forget,
    start_job: Callable[[], Lease],
    signer: Signer,
) -> None:
    forget("ann")
    lease = start_job()
    with catalog(write=False) as reader:
        assert reader.people.user("ann") is not None
        (request,) = complete(catalog, lease, signer)
        erase_owed(catalog)
        assert reader.people.user("ann") is not None
        with catalog(write=False) as uow:
            database_scrub, certificate_scrub = uow.scrubs.open_ones()
            assert ready_for_certificate(uow) == []
        assert database_scrub.kind == ScrubKind.DATABASE
        assert database_scrub.attempts == 2
        assert database_scrub.error
        assert (database_scrub.transaction_id is None) == database.is_sqlite
        assert certificate_scrub.kind == ScrubKind.CERTIFICATE
    assert request.status is RequestStatus.COMPLETED
    with catalog() as uow:
        assert certify_closed(uow, signer, lease.job_id) == []  # The erasure is still owed.

    erase_owed(catalog)  # As the relay does, which has no signing key.

    assert kinds(catalog) == ["certificate"]
    with catalog() as uow:
        wake_for_certificates(uow)
        assert lease.job_id in {entity for _, _, entity in uow.outbox.pending(100)}
    with catalog() as uow:
        assert certify_closed(uow, signer, lease.job_id) == [request.id]
    with catalog() as uow:
        assert certify_closed(uow, signer, lease.job_id) == []
    assert kinds(catalog) == []
    with catalog(write=False) as uow:
        deletion, closing = certificates_of(uow, request.id)
    assert (deletion.kind, closing.kind) == ("deletion", "scrub-closed")
    assert [entry["kind"] for entry in content_of(deletion.envelope)["open"]] == ["database"]
    assert content_of(closing.envelope)["open"] == []


def test_certificate_that_was_not_committed_is_issued_later(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease], signer: Signer
) -> None:
    forget("ann")
    lease = start_job()
    with catalog(write=False) as reader:
        reader.people.user("ann")
        (request,) = complete(catalog, lease, signer)
    erase_owed(catalog)

    def crash() -> None:
        with catalog() as uow:
            assert certify_closed(uow, signer, lease.job_id) == [request.id]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    with catalog() as uow:
        assert ready_for_certificate(uow) == [lease.job_id]
        assert certify_closed(uow, signer, lease.job_id) == [request.id]


def test_job_of_an_earlier_version_past_its_deletion_owes_the_erasure_of_its_ids(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease], signer: Signer
) -> None:
    """The earlier version cleared the ids in its last stage."""
    forget("ann")
    lease = start_job()
    with catalog() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
        (request,) = finish(uow, lease, signer, Evidence(outcome=Outcome.NOT_APPLICABLE))
    assert request.subject is None
    assert kinds(catalog) == ["database", "certificate"]
    erase_owed(catalog)
    assert kinds(catalog) == ["certificate"]


def test_erasure_of_an_abandoned_job_is_listed_by_its_successor(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease], signer: Signer
) -> None:
    request = forget("ann")
    first = start_job()
    with catalog() as uow:
        uow.request_jobs.add(first.job_id, [request.id])
        advance(uow, first, status=JobStatus.ROLLING_OUT)
        delete_rows(uow, first)
    with catalog() as uow:
        fail(uow, first, "shred: OSError", SETTINGS)
    second = start_job()
    with catalog(write=False) as reader:
        reader.state.data_version()
        complete(catalog, second, signer)
    with catalog(write=False) as uow:
        (certificate,) = certificates_of(uow, request.id)
        assert "database" in {scrub.kind for scrub in uow.scrubs.open_of_job(second.job_id)}
    assert [o["kind"] for o in content_of(certificate.envelope)["open"]] == ["database"]


@pytest.mark.postgres
def test_vacuum_waits_for_snapshots_and_transactions_older_than_the_deletion(
    postgres_database: Database,
) -> None:
    factory = UnitOfWorkFactory(postgres_database)
    with factory() as uow:
        uow.people.ensure_users(["ann"])
    with postgres_database.write.begin() as writer:
        writer.execute(text("SELECT pg_current_xact_id()"))  # Holds no snapshot between queries.
        with factory() as uow:
            deleted_by = uow.state.transaction_id()
            uow.people.delete_user("ann")
        error = erase_remains(postgres_database, transaction_id=deleted_by, wait_seconds=0.0)
        assert error is not None
        assert 'application "lethe"' in error
    assert erase_remains(postgres_database, transaction_id=deleted_by) is None

    def is_newest() -> bool:
        # Transactions in all databases of the server count for the age of a snapshot.
        with postgres_database.read.connect() as connection:
            oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            return bool(connection.execute(text(oldest)).scalar_one() > deleted_by)

    wait_until(is_newest, "a transaction stayed open")
    with factory(write=False) as reader:
        reader.state.data_version()  # A snapshot that is newer than the deletion.
        assert erase_remains(postgres_database, transaction_id=deleted_by, wait_seconds=0.0) is None
        # Without the id of the deletion, any older snapshot counts.
        with factory() as uow:
            uow.people.ensure_users(["bob"])
        assert erase_remains(postgres_database, wait_seconds=0.0) is not None


@pytest.mark.postgres
def test_missing_rights_are_reported_instead_of_ignored(postgres_database: Database) -> None:
    """A role without pg_read_all_stats does not see the snapshots of other roles."""
    role = f"lethe_test_{uuid.uuid4().hex}"
    with postgres_database.write.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")

    limited = make_database(
        postgres_database.write.url.set(username=role).render_as_string(hide_password=False)
    )
    try:
        with postgres_database.read.connect() as other:
            other.execute(text("SELECT 1"))
            error = erase_remains(limited, wait_seconds=0.0)
        assert error is not None
        assert "pg_read_all_stats" in error
        with postgres_database.write.begin() as connection:
            connection.exec_driver_sql(f"GRANT pg_read_all_stats TO {role}")
        # VACUUM skips tables of other owners with a warning only.
        error = erase_remains(limited, wait_seconds=0.0)
        assert error is not None
        assert "must own its tables" in error
    finally:
        limited.dispose()
        with postgres_database.write.begin() as connection:
            connection.exec_driver_sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(("oldest_reader", "erased", "left"), [(10, [9], []), (8, [9, 7], [9])])
def test_one_erasure_carries_out_those_of_earlier_deletions(
    uow_factory: UnitOfWorkFactory, oldest_reader: int, erased: list[int], left: list[int]
) -> None:
    """Each erasure rewrites or vacuums the database."""
    with uow_factory() as uow:
        for transaction_id in (5, 9, 7):
            uow.scrubs.owe(ScrubKind.DATABASE, job_id=None, transaction_id=transaction_id)
    calls: list[int | None] = []

    def erase(*, transaction_id: int | None, wait_seconds: float) -> str | None:  # noqa: ARG001
        calls.append(transaction_id)
        return "a reader" if (transaction_id or 0) >= oldest_reader else None

    erase_owed(uow_factory, erase=erase)
    with uow_factory(write=False) as uow:
        assert [scrub.transaction_id for scrub in uow.scrubs.open_ones()] == left
    assert calls == erased
