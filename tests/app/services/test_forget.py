"""A deletion request from its recording to its certificate, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import pytest

from app.domain.catalog import Interaction, User
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
from app.domain.requests import ForgetRequest, Outcome, RequestStatus
from app.services.certificates import Evidence, Signer, certificate_of, verify_certificate
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
from app.services.jobs import advance, close_batch, fail
from app.services.recommendation_inputs import read_inputs, recheck
from app.services.suppression import record_consent
from app.settings import Settings

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(
    cancel_window=0.0,
    due_days=30.0,
    batch_size=32,
    batch_seconds=0.0,
    method="e2urec",
    retry_delay=0.0,
    job_lease=30.0,
    job_attempts=3,
    request_failures=2,
)
EVIDENCE = Evidence(outcome=Outcome.PASSED)

Forget = Callable[..., ForgetRequest]
StartJob = Callable[[], Lease]
T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> list[T | Exception]:
    """Run the calls at the same moment and return what each gave or raised."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | Exception:
        barrier.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
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


def one(user_id: str, item_id: str = "i1") -> Interaction:
    return Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=2000)


def test_a_user_is_gone_from_the_request_on(
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
        again = recheck(uow, pseudonyms, ["ann"], seen.data_version)
        assert (again.gone, again.changed_by_forget) == ({"ann"}, True)
        again = recheck(uow, pseudonyms, ["bob"], other.data_version)
        assert (again.gone, again.changed_by_forget) == (set(), True)
        again = recheck(uow, pseudonyms, ["bob"], again.data_version)
        assert (again.gone, again.changed_by_forget) == (set(), False)
        changes = uow.state.changes_since(other.data_version)
        assert [(c.kind, c.user_id) for c in changes] == [("forget", "ann")]
    with catalog() as uow:
        assert [topic for _, topic, _ in uow.outbox.pending(10)] == ["request"]


def test_pairs_and_items_leave_the_inputs(
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
        assert logged == ["ann", "ann", "bob", "cid"]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (ForgetCommand(user_id="nobody"), UnknownUserError),
        (ForgetCommand(user_id="nobody", item_ids=("i1",)), UnknownUserError),
        (ForgetCommand(user_id="ann", item_ids=("i1", "i4")), UnknownInteractionError),
        (ForgetCommand(item_id="nothing"), UnknownItemError),
    ],
)
def test_what_is_not_held_cannot_be_forgotten(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    command: ForgetCommand,
    error: type[Exception],
) -> None:
    with pytest.raises(error), catalog() as uow:
        request_forget(uow, pseudonyms, SETTINGS, command)
    with catalog(write=False) as uow:
        assert uow.requests.page(10, None) == []


def test_an_earlier_request_that_covers_it_is_returned(forget: Forget) -> None:
    pairs = forget("ann", "i1", "i2")
    assert forget("ann", "i2").id == pairs.id
    more = forget("ann", "i2", "i3")
    assert more.id != pairs.id
    user = forget("ann")
    assert user.id not in {pairs.id, more.id}
    assert {forget("ann").id, forget("ann", "i0").id} == {user.id}
    item = forget(item_id="i0")
    assert {forget(item_id="i0").id, forget("bob", "i0").id} == {item.id}


def test_one_person_asking_twice_at_once_gives_one_request(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    found = at_once(*[lambda: forget("ann").id] * 4)
    assert len(set(found)) == 1
    with catalog(write=False) as uow:
        assert len(uow.requests.page(10, None)) == 1


def test_one_idempotency_key_gives_one_request(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    def post(command: ForgetCommand) -> str:
        with catalog() as uow:
            return request_forget(uow, pseudonyms, SETTINGS, command, "key")[0].id

    same = ForgetCommand(user_id="ann", item_ids=("i1",))
    found = at_once(*[lambda: post(same)] * 4)
    assert len(set(found)) == 1
    with pytest.raises(IdempotencyConflictError):
        post(ForgetCommand(user_id="bob"))


def test_a_key_still_tells_bodies_apart_after_completion(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, signer: Signer, start_job: StartJob
) -> None:
    def post(command: ForgetCommand) -> str:
        with catalog() as uow:
            return request_forget(uow, pseudonyms, SETTINGS, command, "key")[0].id

    request_id = post(ForgetCommand(user_id="ann"))
    complete(catalog, start_job(), signer)
    key_hash = pseudonyms.opaque("idempotency-key", "key")
    with catalog(write=False) as uow:
        assert uow.idempotency.find(key_hash) == ("", request_id)
    assert post(ForgetCommand(user_id="ann")) == request_id
    with pytest.raises(IdempotencyConflictError):
        post(ForgetCommand(user_id="bob"))


def test_cancelling_lifts_the_suppression_of_this_request_only(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    first, _second = forget("ann", "i1", "i2"), forget("ann", "i2", "i3")
    with catalog() as uow:
        assert cancel_forget(uow, first.id).status is RequestStatus.CANCELLED
    with catalog(write=False) as uow:
        held = [i.item_id for i in read_inputs(uow, pseudonyms, "ann").history]
        assert held == ["i0", "i1"]
    with pytest.raises(NotCancellableError), catalog() as uow:
        cancel_forget(uow, first.id)


@pytest.mark.parametrize("_round", range(5))
def test_cancelling_and_freezing_never_both_take_a_request(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget, _round: int
) -> None:
    request = forget("ann")

    def cancel() -> bool:
        with catalog() as uow:
            cancel_forget(uow, request.id)
        return True

    def take_snapshot() -> bool:
        with catalog() as uow:
            return close_batch(uow, SETTINGS) is not None

    cancelled, snapshot = at_once(cancel, take_snapshot)
    with catalog(write=False) as uow:
        found = uow.requests.get(request.id)
        suppressed = uow.suppressions.matching([pseudonyms.user("ann")])
    if snapshot is True:
        assert isinstance(cancelled, NotCancellableError)
        assert found.status is RequestStatus.BATCHED
        assert suppressed
    else:
        assert cancelled is True
        assert (found.status, found.job_id) == (RequestStatus.CANCELLED, None)
        assert not suppressed


def test_a_held_request_waits_until_it_is_released(
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


def test_forgotten_people_and_things_are_refused_whole(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    forget("bob", "i1")
    forget(item_id="i3")
    for bad in (one("ann"), one("bob", "i1"), one("new", "i3")):
        with pytest.raises(ForgottenPersonError), catalog() as uow:
            add_interactions(uow, pseudonyms, [one("new", "i2"), bad])
    with catalog() as uow:
        assert uow.people.user("new") is None
        assert add_interactions(uow, pseudonyms, [one("new", "i2"), one("bob", "i2")]) == 2
    with catalog(write=False) as uow:
        assert [i.timestamp for i in uow.people.history("bob")] == [1000, 1001, 2000]


def test_an_import_leaves_out_and_counts_what_is_forgotten(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    heard: list[int] = []
    result = import_data(
        catalog,
        pseudonyms,
        users=[User(id="ann", attributes={"age": "9"}), User(id="dan", attributes={"age": "8"})],
        items=[("i9", "Item 9", {}), ("i0", "Item nought", {})],
        interactions=[one("ann"), one("dan", "i9"), one("dan", "nothing"), one("", "i1")],
        chunk=2,
        on_progress=heard.append,
    )
    assert (result.users, result.items, result.interactions) == (1, 2, 1)
    assert result.skipped == {"forgotten": 2, "invalid": 1, "unknown_item": 1}
    assert heard == [2, 2, 2, 2]
    with catalog(write=False) as uow:
        assert [(i.id, i.item_index) for i in uow.people.items()][-1] == ("i9", 5)
        assert uow.people.user("ann") == User(id="ann", attributes={"gender": "F"})


def test_completion_of_each_scope(
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
        assert finish(uow, lease, signer, EVIDENCE) == done  # Once more after the commit.
    with catalog(write=False) as uow:
        assert uow.people.user("ann") is None
        assert [i.item_id for i in uow.people.history("bob")] == ["i2"]
        assert uow.people.item("i0") is None
        retired = [item for item in uow.people.items() if item.retired]
        assert [(item.item_index, item.title) for item in retired] == [(0, "")]
        assert RequestStatus.COMPLETED in uow.requests.count_by_status()
        assert uow.jobs.get(lease.job_id).status is JobStatus.SUCCEEDED
        assert {c.user_id for c in uow.state.changes_since(0)} == {None}
        payload = verify_certificate(certificate_of(uow, requests[0].id), signer.public_pem())
        assert payload["subject_hashes"] == [pseudonyms.user("ann")]
    assert forget("ann").id == requests[0].id  # Already forgotten, nothing new held.


def test_a_user_takes_the_other_requests_along(
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


def test_consent_allows_new_data_and_a_new_deletion(
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
    assert forget("ann").id == first.id  # Consent alone brings nothing back.
    with catalog() as uow:
        add_interactions(uow, pseudonyms, [one("ann")])
    second = forget("ann")
    assert second.id != first.id
    complete(catalog, start_job(), signer)
    assert forget("ann").id == second.id
    with pytest.raises(UnknownUserError), catalog() as uow:
        record_consent(uow, pseudonyms, "nobody")


def test_consent_to_single_interactions(
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
        add_interactions(uow, pseudonyms, [one("ann", "i1")])
    with pytest.raises(ForgottenPersonError), catalog() as uow:
        add_interactions(uow, pseudonyms, [one("ann", "i2")])


def test_failed_jobs_return_their_requests_until_they_die(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: StartJob
) -> None:
    request = forget("ann")
    for dead, status in ([], RequestStatus.BATCHED), ([request.id], RequestStatus.DEAD):
        lease = start_job()
        with catalog() as uow:
            assert uow.requests.get(request.id).status is RequestStatus.UNLEARNING
            assert fail(uow, lease, "it did not work", SETTINGS) == dead
        with catalog() as uow:
            found = uow.requests.get(request.id)
            assert (found.status, found.job_id) == (status, None)
    with catalog() as uow:
        assert close_batch(uow, SETTINGS) is None
        revived = release_forget(uow, request.id)
        assert (revived.status, revived.failures) == (RequestStatus.BATCHED, 0)
    start_job()
