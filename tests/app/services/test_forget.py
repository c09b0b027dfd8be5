"""Deletion requests from the recording to the certificate, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import pytest

from app.domain.catalog import NO_USER, Interaction, User
from app.domain.errors import (
    ConflictError,
    ForgottenPersonError,
    GoneError,
    IdempotencyConflictError,
    IllegalTransitionError,
    NotCancellableError,
    UnknownInteractionError,
    UnknownItemError,
    UnknownUserError,
)
from app.domain.jobs import JobStatus, Lease
from app.domain.requests import Attribution, ForgetRequest, Outcome, RequestStatus
from app.services.certificates import Evidence, certificate_of
from app.services.completion import delete_rows, finish
from app.services.forget import (
    ForgetCommand,
    cancel_forget,
    hold_forget,
    release_forget,
    request_forget,
)
from app.services.imports import import_data
from app.services.interactions import add_interactions
from app.services.jobs import advance, close_batch
from app.services.recommendation_inputs import read_inputs, recheck
from app.services.signatures import Signer, verify_certificate
from app.services.suppression import record_consent
from app.settings import Settings

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(cancel_window=0.0, batch_seconds=0.0, retry_delay=0.0, request_failures=2)
EVIDENCE = Evidence(outcome=Outcome.PASSED)

Forget = Callable[..., ForgetRequest]
StartJob = Callable[[], Lease]
T = TypeVar("T")


def run_concurrently(*calls: Callable[[], T]) -> list[T | Exception]:
    """Run the calls concurrently and return the result or the exception of each call."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | Exception:
        barrier.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the test checks the exception
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def complete(factory: UnitOfWorkFactory, lease: Lease, signer: Signer) -> list[ForgetRequest]:
    with factory() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
    with factory() as uow:
        delete_rows(uow, lease)
    with factory() as uow:
        return finish(uow, lease, signer, EVIDENCE)


def rating(user_id: str, item_id: str = "i1") -> Interaction:
    return Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=2000)


def test_requested_user_is_suppressed_at_once(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    with catalog(write=False) as uow:
        seen = read_inputs(uow, pseudonyms, "ann")
        other = read_inputs(uow, pseudonyms, "bob")
    assert [i.item_id for i in seen.history] == ["i0", "i1", "i2", "i3"]
    assert seen.user.attributes == {"gender": "F"}
    forget("ann")
    with catalog(write=False) as uow:
        with pytest.raises(GoneError):
            read_inputs(uow, pseudonyms, "ann")
        again = recheck(uow.state.standing, pseudonyms, ["ann"], seen.data_version)
        assert (again.gone, again.is_overtaken) == ({"ann"}, True)
        again = recheck(uow.state.standing, pseudonyms, ["bob"], other.data_version)
        assert (again.gone, again.is_overtaken) == (set(), True)
        again = recheck(uow.state.standing, pseudonyms, ["bob"], again.data_version)
        assert (again.gone, again.is_overtaken) == (set(), False)
        changes = uow.state.changes_since(other.data_version)
        assert [(c.kind, c.user_id) for c in changes] == [("forget", "ann")]
    with catalog() as uow:
        assert [topic for _, topic, _ in uow.outbox.pending(10)] == ["request"]


def test_requested_pairs_and_items_are_left_out_of_the_inputs(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann", "i1", "i2")
    forget(item_id="i0")
    with catalog(write=False) as uow:
        inputs = read_inputs(uow, pseudonyms, "ann")
        assert [i.item_id for i in inputs.history] == ["i3"]
        assert inputs.seen_item_ids == {"i0", "i1", "i2", "i3"}
        assert inputs.suppressed_item_ids == {"i0"}
        assert [i.item_id for i in read_inputs(uow, pseudonyms, "bob").history] == ["i1", "i2"]
        logged = [c.user_id for c in uow.state.changes_since(0)]
        assert logged == ["ann", NO_USER]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (ForgetCommand(user_id="unknown"), UnknownUserError),
        (ForgetCommand(user_id="unknown", item_ids=("i1",)), UnknownUserError),
        (ForgetCommand(user_id="ann", item_ids=("i1", "i4")), UnknownInteractionError),
        (ForgetCommand(item_id="nothing"), UnknownItemError),
    ],
)
def test_request_for_unknown_subject_is_refused(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    command: ForgetCommand,
    error: type[Exception],
) -> None:
    with pytest.raises(error), catalog() as uow:
        request_forget(uow, pseudonyms, SETTINGS, command)
    with catalog(write=False) as uow:
        assert uow.requests.page(10, None) == []


def test_subject_covered_by_earlier_request_returns_that_request(forget: Forget) -> None:
    pairs = forget("ann", "i1", "i2")
    assert forget("ann", "i2").id == pairs.id
    more = forget("ann", "i2", "i3")
    assert more.id != pairs.id
    user = forget("ann")
    assert user.id not in {pairs.id, more.id}
    assert {forget("ann").id, forget("ann", "i0").id} == {user.id}
    item = forget(item_id="i0")
    assert {forget(item_id="i0").id, forget("bob", "i0").id} == {item.id}


def test_concurrent_calls_for_one_user_create_one_request(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    request_ids = run_concurrently(*[lambda: forget("ann").id] * 4)
    assert len(set(request_ids)) == 1
    with catalog(write=False) as uow:
        assert len(uow.requests.page(10, None)) == 1


def test_concurrent_calls_with_one_idempotency_key_create_one_request(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    def post(command: ForgetCommand) -> str:
        with catalog() as uow:
            return request_forget(uow, pseudonyms, SETTINGS, command, "key")[0].id

    same = ForgetCommand(user_id="ann", item_ids=("i1",))
    request_ids = run_concurrently(*[lambda: post(same)] * 4)
    assert len(set(request_ids)) == 1
    with pytest.raises(IdempotencyConflictError):
        post(ForgetCommand(user_id="bob"))


def test_idempotency_key_with_other_body_is_refused_after_completion(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, signer: Signer, start_job: StartJob
) -> None:
    def post(command: ForgetCommand) -> str:
        with catalog() as uow:
            return request_forget(uow, pseudonyms, SETTINGS, command, "key")[0].id

    request_id = post(ForgetCommand(user_id="ann"))
    complete(catalog, start_job(), signer)
    key_hash = pseudonyms.opaque("idempotency-key", "key")
    with catalog(write=False) as uow:
        entry = uow.idempotency.find(key_hash)
    assert entry is not None
    assert (entry.body_hash, entry.request_id) == ("", request_id)
    assert post(ForgetCommand(user_id="ann")) == request_id
    with pytest.raises(IdempotencyConflictError):
        post(ForgetCommand(user_id="bob"))
    with pytest.raises(IdempotencyConflictError):
        post(ForgetCommand(user_id="ann", attribution=Attribution(reference="DSR-1")))


def test_cancelled_request_lifts_only_its_own_suppressions(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    first, _second = forget("ann", "i1", "i2"), forget("ann", "i2", "i3")
    with catalog() as uow:
        assert cancel_forget(uow, first.id).status is RequestStatus.CANCELLED
    with catalog(write=False) as uow:
        rated_ids = [i.item_id for i in read_inputs(uow, pseudonyms, "ann").history]
        assert rated_ids == ["i0", "i1"]
    with pytest.raises(NotCancellableError), catalog() as uow:
        cancel_forget(uow, first.id)


@pytest.mark.parametrize("_round", range(5))
def test_concurrent_cancel_and_batch_never_both_succeed(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget, _round: int
) -> None:
    request = forget("ann")

    def cancel() -> bool:
        with catalog() as uow:
            cancel_forget(uow, request.id)
        return True

    def close() -> bool:
        with catalog() as uow:
            return close_batch(uow, SETTINGS) is not None

    cancelled, closed = run_concurrently(cancel, close)
    with catalog(write=False) as uow:
        stored = uow.requests.get(request.id)
        suppressed = uow.suppressions.matching([pseudonyms.user("ann")])
    if closed is True:
        assert isinstance(cancelled, NotCancellableError)
        assert stored.status is RequestStatus.BATCHED
        assert suppressed
    else:
        assert cancelled is True
        assert (stored.status, stored.job_id) == (RequestStatus.CANCELLED, None)
        assert not suppressed


def test_request_on_hold_is_not_batched_until_released(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    request = forget("ann")
    with catalog() as uow:
        assert hold_forget(uow, request.id).status is RequestStatus.ON_HOLD
        assert close_batch(uow, SETTINGS) is None
    with catalog() as uow:
        assert release_forget(uow, request.id).status is RequestStatus.SCHEDULED
    with catalog() as uow:
        assert close_batch(uow, SETTINGS) is not None
    with pytest.raises(IllegalTransitionError), catalog() as uow:
        hold_forget(uow, request.id)


def test_batch_with_suppressed_ids_is_refused_completely(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    forget("bob", "i1")
    forget(item_id="i3")
    for suppressed in (rating("ann"), rating("bob", "i1"), rating("new", "i3")):
        with pytest.raises(ForgottenPersonError), catalog() as uow:
            add_interactions(uow, pseudonyms, [rating("new", "i2"), suppressed])
    with catalog() as uow:
        assert uow.people.user("new") is None
        result = add_interactions(uow, pseudonyms, [rating("new", "i2"), rating("bob", "i2")])
        assert result == ["stored", "stored"]
    with catalog(write=False) as uow:
        assert [i.timestamp for i in uow.people.history("bob")] == [1000, 1001, 2000]


def test_import_skips_and_counts_suppressed_rows(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    chunk_sizes: list[int] = []
    result = import_data(
        catalog,
        pseudonyms,
        users=[User(id="ann", attributes={"age": "9"}), User(id="dan", attributes={"age": "8"})],
        items=[("i9", "Item 9", {}), ("i0", "Item nought", {})],
        interactions=[
            rating("ann"),
            rating("dan", "i9"),
            rating("dan", "nothing"),
            rating("", "i1"),
        ],
        chunk=2,
        on_progress=chunk_sizes.append,
    )
    assert (result.users, result.items, result.interactions) == (1, 2, 1)
    assert result.skipped == {
        "forgotten": 1,
        "forgotten_users": 1,
        "invalid": 1,
        "unknown_item": 1,
    }
    assert chunk_sizes == [2, 2, 2, 2]
    with catalog(write=False) as uow:
        assert [(i.id, i.item_index) for i in uow.people.items()][-1] == ("i9", 5)
        assert uow.people.user("ann") == User(id="ann", attributes={"gender": "F"})


def test_completed_job_deletes_subjects_of_all_scopes(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    requests = [forget("ann"), forget("bob", "i1"), forget(item_id="i0")]
    lease = start_job()
    done = complete(catalog, lease, signer)
    assert [r.id for r in done] == [r.id for r in requests]
    assert {(r.status, r.subject, r.progress) for r in done} == {
        (RequestStatus.COMPLETED, None, 1.0)
    }
    with catalog() as uow:
        assert finish(uow, lease, signer, EVIDENCE) == done  # A second call changes nothing.
    with catalog(write=False) as uow:
        assert uow.people.user("ann") is None
        assert [i.item_id for i in uow.people.history("bob")] == ["i2"]
        assert uow.people.item("i0") is None
        retired = [item for item in uow.people.items() if item.retired]
        assert [(item.item_index, item.title) for item in retired] == [(0, "")]
        assert uow.requests.count_open() == {}
        assert uow.jobs.get(lease.job_id).status is JobStatus.SUCCEEDED
        assert {c.user_id for c in uow.state.changes_since(0)} == {None, NO_USER}
        payload = verify_certificate(certificate_of(uow, requests[0].id), signer.public_pem())
        assert payload["subject_hashes"] == [pseudonyms.user("ann")]
    assert forget("ann").id == requests[0].id  # The user has no new data.


def test_completed_user_deletion_completes_the_users_other_requests(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: StartJob, signer: Signer
) -> None:
    pairs = forget("ann", "i1")
    with catalog() as uow:
        hold_forget(uow, pairs.id)
    forget("ann")
    done = complete(catalog, start_job(), signer)
    assert len(done) == 2
    with catalog(write=False) as uow:
        assert uow.requests.get(pairs.id).status is RequestStatus.COMPLETED
        assert uow.requests.open_of_user("ann") == []


def test_consent_allows_new_data_and_new_deletion(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    first = forget("ann")
    with pytest.raises(ConflictError), catalog() as uow:
        record_consent(uow, pseudonyms, "ann")
    complete(catalog, start_job(), signer)
    with catalog() as uow:
        assert record_consent(uow, pseudonyms, "ann") == 1
        assert record_consent(uow, pseudonyms, "ann") == 0
    assert forget("ann").id == first.id  # Consent restores no data.
    with catalog() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])
    second = forget("ann")
    assert second.id != first.id
    complete(catalog, start_job(), signer)
    assert forget("ann").id == second.id
    with pytest.raises(UnknownUserError), catalog() as uow:
        record_consent(uow, pseudonyms, "unknown")


def test_consent_to_single_interaction_lifts_only_its_tombstone(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    forget("ann", "i1", "i2")
    complete(catalog, start_job(), signer)
    with catalog() as uow:
        assert record_consent(uow, pseudonyms, "ann", ["i1"]) == 1
        add_interactions(uow, pseudonyms, [rating("ann", "i1")])
    with pytest.raises(ForgottenPersonError), catalog() as uow:
        add_interactions(uow, pseudonyms, [rating("ann", "i2")])
