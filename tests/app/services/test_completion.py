"""The order at the end of a deletion: rows and ids first, then the certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.errors import ConflictError, ForgottenPersonError, GoneError, UnknownItemError
from app.domain.jobs import JobStatus
from app.domain.requests import Outcome, RequestStatus
from app.services.certificates import Evidence
from app.services.completion import delete_rows, finish
from app.services.forget import cancel_forget, hold_forget
from app.services.items import read_item, store_items
from app.services.jobs import advance
from app.services.recommendation_inputs import read_inputs
from app.services.suppression import record_consent

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWorkFactory
    from tests.app.conftest import Forget

EVIDENCE = Evidence(outcome=Outcome.NOT_APPLICABLE)


def delete(factory: UnitOfWorkFactory, lease: Lease) -> int:
    with factory() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
        return delete_rows(uow, lease)


def read(factory: UnitOfWorkFactory, request_id: str) -> ForgetRequest:
    with factory(write=False) as uow:
        return uow.requests.get(request_id)


def test_cancelling_clears_the_plain_ids_and_keeps_the_hashes(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    request = forget(item_id="i0")
    with catalog() as uow:
        cancelled = cancel_forget(uow, request.id)
    assert (cancelled.status, cancelled.subject) == (RequestStatus.CANCELLED, None)
    assert cancelled.subject_hashes == request.subject_hashes
    assert forget(item_id="i0").id != request.id


def test_forget_cancel_forget_again_leaves_no_id_when_completed(
    catalog: UnitOfWorkFactory,
    forget: Forget,
    start_job: Callable[[], Lease],
    signer: Signer,
    every_row: Callable[[], str],
) -> None:
    cancelled = forget("ann")
    with catalog() as uow:
        cancel_forget(uow, cancelled.id)
    request = forget("ann")
    lease = start_job()
    delete(catalog, lease)
    with catalog() as uow:
        finish(uow, lease, signer, EVIDENCE)
    assert read(catalog, request.id).status is RequestStatus.COMPLETED
    assert "'ann'" not in every_row()


def test_rows_and_ids_are_gone_before_the_certificate(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: Callable[[], Lease],
    signer: Signer,
    every_row: Callable[[], str],
) -> None:
    person, item = forget("ann"), forget(item_id="i0")
    lease = start_job()
    before = read(catalog, person.id)
    assert before.subject is not None
    with catalog(write=False) as uow:
        version = uow.state.data_version()

    assert delete(catalog, lease) == 6

    assert "'ann'" not in every_row()
    assert "'i0'" not in every_row()
    for request in (person, item):
        deleted = read(catalog, request.id)
        assert (deleted.status, deleted.subject) == (RequestStatus.ROLLING_OUT, None)
    rows = read(catalog, person.id).rows_deleted
    assert rows is not None
    assert (rows["users"], rows["interactions"]) == (1, 4)
    assert (read(catalog, item.id).rows_deleted or {})["items"] == 1
    # A crash before the next stage repeats this one.
    assert delete(catalog, lease) == 0
    assert read(catalog, person.id).rows_deleted == rows
    with catalog(write=False) as uow:
        assert [scrub.kind for scrub in uow.scrubs.open_ones()] == ["database"]
        # Replicas read the catalog again, because the open request no longer names the item.
        assert "items" in {change.kind for change in uow.state.changes_since(version)}
    check_suppressed(catalog, pseudonyms)
    assert forget("ann").id == person.id
    assert forget("ann", "i1").id == person.id
    assert forget(item_id="i0").id == item.id
    with catalog() as uow:
        finish(uow, lease, signer, EVIDENCE)
    assert read(catalog, person.id).rows_deleted == rows
    check_suppressed(catalog, pseudonyms)


def check_suppressed(catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    with catalog(write=False) as uow:
        with pytest.raises(GoneError):
            read_inputs(uow, pseudonyms, "ann")
        with pytest.raises(UnknownItemError):
            read_item(uow, "i0")
        history = read_inputs(uow, pseudonyms, "bob").history
        assert [event.item_id for event in history] == ["i1", "i2"]
    with catalog() as uow, pytest.raises(ForgottenPersonError):
        store_items(uow, pseudonyms, [("i0", "Again", {})])


def test_consent_waits_for_the_certificate(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: Callable[[], Lease],
    signer: Signer,
) -> None:
    forget("ann")
    forget("bob", "i1")
    lease = start_job()
    delete(catalog, lease)
    for user_id, item_ids in (("ann", ()), ("bob", ("i1",))):
        with catalog() as uow, pytest.raises(ConflictError):
            record_consent(uow, pseudonyms, user_id, item_ids)
    with catalog() as uow:
        finish(uow, lease, signer, EVIDENCE)
    with catalog() as uow:
        assert record_consent(uow, pseudonyms, "ann") == 1
        assert record_consent(uow, pseudonyms, "bob", ["i1"]) == 1


def test_deleted_item_is_removed_from_requests_of_other_users(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: Callable[[], Lease], signer: Signer
) -> None:
    only_item, with_item = forget("ann", "i0"), forget("bob", "i0", "i1")
    with catalog() as uow:
        hold_forget(uow, only_item.id)
        hold_forget(uow, with_item.id)
    forget(item_id="i0")
    lease = start_job()
    delete(catalog, lease)

    held = read(catalog, with_item.id)
    assert held.status is RequestStatus.ON_HOLD
    assert held.subject is not None
    assert held.subject.item_ids == ("i1",)
    assert held.subject_hashes == with_item.subject_hashes
    adopted = read(catalog, only_item.id)
    assert (adopted.job_id, adopted.subject) == (lease.job_id, None)
    with catalog(write=False) as uow:
        assert [job.job_id for job in uow.request_jobs.of_request(only_item.id)] == [lease.job_id]
    with catalog() as uow:
        finish(uow, lease, signer, EVIDENCE)
    assert read(catalog, only_item.id).status is RequestStatus.COMPLETED
    assert read(catalog, with_item.id).status is RequestStatus.ON_HOLD
