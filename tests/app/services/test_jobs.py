"""Jobs: claims, leases, batches, the sweeper and lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, update

from app.domain.errors import (
    IllegalTransitionError,
    InvalidInputError,
    JobRunningError,
    LeaseLostError,
    NothingToTrainError,
    UnknownJobError,
)
from app.domain.jobs import Failure, Job, JobKind, JobStatus, Lease, Stage
from app.domain.requests import Assurance, ForgetRequest, RequestStatus
from app.services.exactness import adopt_earlier_completions
from app.services.jobs import (
    advance,
    claim,
    close_batch,
    fail,
    give_back,
    record_failure,
    start_training,
    succeed,
    sweep,
)
from app.services.pagination import list_jobs, list_requests
from app.settings import Settings
from app.storage.tables import OutboxRow, ReleaseRow, RequestRow

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(
    job_lease=30.0,
    job_attempts=2,
    request_failures=2,
    batch_size=2,
    batch_seconds=1000.0,
    method="e2urec",
    retry_delay=1000.0,
)

Forget = Callable[..., ForgetRequest]
StartJob = Callable[[], Lease]


def take(factory: UnitOfWorkFactory, owner: str = "w") -> tuple[Job, Lease]:
    with factory() as uow:
        claimed = claim(uow, owner, SETTINGS)
    if claimed is None:
        raise RuntimeError("no job can be claimed")
    return claimed


def expire(factory: UnitOfWorkFactory, lease: Lease) -> None:
    with factory() as uow:
        uow.jobs.renew(lease, -1.0)


@pytest.fixture
def training(catalog: UnitOfWorkFactory) -> str:
    """The id of a queued job."""
    with catalog() as uow:
        return start_training(uow).id


def test_training_without_data_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    with pytest.raises(NothingToTrainError), uow_factory() as uow:
        start_training(uow)
    with pytest.raises(InvalidInputError), uow_factory() as uow:
        start_training(uow, JobKind.FORGET)


def test_second_open_job_is_refused(catalog: UnitOfWorkFactory, training: str) -> None:
    with catalog() as uow:
        with pytest.raises(JobRunningError) as raised:
            start_training(uow, JobKind.RENEW)
        assert training in str(raised.value)
        assert uow.jobs.open_job() is not None  # The transaction can continue.
        assert [topic for _, topic, _ in uow.outbox.pending(9)] == ["job"]


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("_round", range(3))
def test_one_of_many_concurrent_claims_succeeds(catalog: UnitOfWorkFactory, _round: int) -> None:
    barrier, won = Barrier(6), list[tuple[Job, Lease]]()

    def run(owner: str) -> None:
        barrier.wait()
        with catalog() as uow:
            claimed = claim(uow, owner, SETTINGS)
        if claimed is not None:
            won.append(claimed)

    threads = [Thread(target=run, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((job, lease),) = won
    assert (job.status, job.attempts, lease.epoch) == (JobStatus.RUNNING, 1, 1)
    assert job.lease_owner == lease.owner
    assert job.started_at is not None


@pytest.mark.usefixtures("training")
def test_expired_lease_allows_new_claim(catalog: UnitOfWorkFactory) -> None:
    _, lease = take(catalog)
    with catalog() as uow:
        assert claim(uow, "other", SETTINGS) is None
        uow.jobs.renew(lease, SETTINGS.job_lease)
        assert uow.jobs.expired() == []
    expire(catalog, lease)
    with catalog(write=False) as uow:
        assert [job.id for job in uow.jobs.expired()] == [lease.job_id]
    job, second = take(catalog, "other")
    assert (second.epoch, job.attempts) == (2, 2)


def test_writes_under_stale_lease_change_nothing(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: StartJob
) -> None:
    request = forget("ann")
    stale = start_job()
    expire(catalog, stale)
    take(catalog, stale.owner)  # The same owner: only the epoch differs.
    writes: list[Callable[[], None]] = []

    def attempt(write: Callable[..., object], *args: object, **kwargs: object) -> None:
        def run() -> None:
            with catalog() as uow:
                write(uow, stale, *args, **kwargs)

        writes.append(run)

    attempt(lambda uow, lease: uow.jobs.renew(lease, SETTINGS.job_lease))
    attempt(give_back)
    attempt(advance, status=JobStatus.AUDITING)
    attempt(advance, metrics={"x": 1})
    attempt(fail, "no", SETTINGS)
    attempt(succeed)
    attempt(lambda uow, lease: uow.requests.advance_of_job(lease, RequestStatus.AUDITING, 0.5))
    attempt(lambda uow, lease: uow.requests.detach_from_job(lease, [request]))
    attempt(record_failure, Failure(text="no", signature="no"), SETTINGS)
    with catalog(write=False) as uow:
        before = uow.jobs.get(stale.job_id), uow.requests.get(request.id)
    for write in writes:
        with pytest.raises(LeaseLostError):
            write()
    with catalog(write=False) as uow:
        assert (uow.jobs.get(stale.job_id), uow.requests.get(request.id)) == before


@pytest.mark.usefixtures("training")
def test_writes_after_end_of_job_are_refused(catalog: UnitOfWorkFactory) -> None:
    _, lease = take(catalog)
    with pytest.raises(IllegalTransitionError), catalog() as uow:
        succeed(uow, lease)
    with catalog() as uow:
        fail(uow, lease, "no", SETTINGS)
    with pytest.raises(LeaseLostError), catalog() as uow:
        uow.jobs.renew(lease, SETTINGS.job_lease)
    with catalog() as uow:
        assert claim(uow, "other", SETTINGS) is None
        assert uow.jobs.open_job() is None
        assert uow.jobs.get(lease.job_id).finished_at is not None
        with pytest.raises(UnknownJobError):
            uow.jobs.get("job_none")


def test_job_status_is_copied_to_its_requests(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: StartJob
) -> None:
    request = forget("ann")
    lease = start_job()
    steps: list[tuple[dict[str, Any], RequestStatus]] = [
        ({"stage": Stage.UNLEARN, "progress": 0.3}, RequestStatus.UNLEARNING),
        ({"status": JobStatus.AUDITING, "metrics": {"a": 1}}, RequestStatus.AUDITING),
        ({"status": JobStatus.RUNNING, "metrics": {"b": 2}}, RequestStatus.UNLEARNING),
        ({"status": JobStatus.PUBLISHING}, RequestStatus.AUDITING),
        ({"status": JobStatus.ROLLING_OUT, "progress": 0.9}, RequestStatus.ROLLING_OUT),
    ]
    for changes, expected in steps:
        with catalog() as uow:
            advance(uow, lease, **changes)
        with catalog(write=False) as uow:
            assert uow.requests.get(request.id).status is expected
    with catalog(write=False) as uow:
        assert uow.jobs.get(lease.job_id).metrics == {"a": 1, "b": 2}
        assert uow.requests.get(request.id).progress == 0.9
    expire(catalog, lease)
    job, _ = take(catalog, "other")
    assert job.status is JobStatus.ROLLING_OUT  # A rollout continues after a new claim.
    with catalog(write=False) as uow:
        assert uow.requests.get(request.id).status is RequestStatus.ROLLING_OUT


def test_sweeper_abandons_job_without_attempts_left(
    catalog: UnitOfWorkFactory, forget: Forget, start_job: StartJob
) -> None:
    request = forget("ann")
    lease = start_job()
    expire(catalog, lease)
    with catalog() as uow:
        swept = sweep(uow, SETTINGS)
        assert (swept.abandoned, swept.woken) == ((), (lease.job_id,))
    _, second = take(catalog)
    with catalog() as uow:
        assert sweep(uow, SETTINGS).woken == ()
    expire(catalog, second)
    with catalog() as uow:
        assert claim(uow, "w", SETTINGS) is None  # Out of attempts.
        assert sweep(uow, SETTINGS).abandoned == (lease.job_id,)
    with catalog(write=False) as uow:
        assert uow.jobs.get(lease.job_id).status is JobStatus.DEAD
        stored = uow.requests.get(request.id)
        assert (stored.status, stored.failures, stored.job_id) == (RequestStatus.BATCHED, 0, None)
        assert stored.last_failure == "waiting: worker-lost"


def test_deletion_that_an_earlier_version_completed_becomes_exact_later(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    request, first = forget("ann"), forget("bob")
    earlier = {"status": "completed", "exact_due_at": None, "completed_at": first.created_at}
    release = {
        "id": "rel_1",
        "digest": "d",
        "status": "live",
        "method": "retrain",
        "path": "p",
        "metrics": {},
        "created_at": first.created_at,
    }
    with catalog() as uow:
        job = start_training(uow)
    with catalog.database.write.begin() as connection:
        connection.execute(insert(ReleaseRow).values(**(release | {"job_id": job.id})))
        connection.execute(update(RequestRow).values(**earlier))
        made = update(RequestRow).where(RequestRow.id == request.id)
        connection.execute(made.values(release="rel_1"))
    with catalog() as uow:
        adopt_earlier_completions(uow, SETTINGS)
    with catalog(write=False) as uow:
        stamped = uow.requests.get(request.id)
        before_the_release = uow.requests.get(first.id)
    assert before_the_release.assurance is Assurance.EXACT
    assert before_the_release.exact_at == first.created_at
    assert stamped.assurance is Assurance.APPROXIMATE
    assert stamped.exact_due_at == stamped.created_at + timedelta(days=SETTINGS.exact_days)


@pytest.mark.usefixtures("training")
def test_lost_wake_up_message_is_written_again_once(catalog: UnitOfWorkFactory) -> None:
    with catalog() as uow:
        uow.outbox.mark_sent([outbox_id for outbox_id, _, _ in uow.outbox.pending(9)])
        # The pause before the repetition is as long as the first message took, here nothing.
        uow._connection.execute(update(OutboxRow).values(sent_at=OutboxRow.created_at))
        assert uow.outbox.pending(9) == []
    for _ in range(2):
        with catalog() as uow:
            sweep(uow, SETTINGS)
            assert [topic for _, topic, _ in uow.outbox.pending(9)] == ["job"]
    with catalog() as uow:
        uow.outbox.prune(-1.0)
        assert len(uow.outbox.pending(9)) == 1


def test_batch_closes_when_full_or_for_a_retry(catalog: UnitOfWorkFactory, forget: Forget) -> None:
    forget("ann")
    with catalog() as uow:
        assert close_batch(uow, SETTINGS) is None
    forget("bob")
    forget("cid")
    with catalog() as uow:
        job = close_batch(uow, SETTINGS)
        assert job is not None
        assert len(uow.requests.of_job(job.id)) == SETTINGS.batch_size
        assert close_batch(uow, SETTINGS) is None
    _, lease = take(catalog)
    with catalog() as uow:
        fail(uow, lease, "no", SETTINGS)
    with catalog() as uow:
        assert close_batch(uow, SETTINGS) is None  # A retry waits.
        assert uow.requests.any_waiting()


def test_batch_without_requests_creates_no_job(catalog: UnitOfWorkFactory) -> None:
    with catalog() as uow:
        assert close_batch(uow, SETTINGS) is None
        assert uow.jobs.page(9, None) == []


def test_lists_are_paginated_and_refuse_invalid_cursors(
    catalog: UnitOfWorkFactory, forget: Forget
) -> None:
    ids = [forget(user).id for user in ("ann", "bob", "cid")]
    with catalog(write=False) as uow:
        first = list_requests(uow, limit=2)
        assert first.next_cursor is not None
        second = list_requests(uow, limit=2, cursor=first.next_cursor)
        assert sorted(ids) == sorted(r.id for r in (*first.items, *second.items))
        assert second.next_cursor is None
        assert list_jobs(uow).items == []
        for limit, cursor in ((0, None), (201, None), (5, "rel_x"), (5, "job_" + "0" * 32)):
            with pytest.raises(InvalidInputError):
                list_requests(uow, limit=limit, cursor=cursor)


@pytest.mark.usefixtures("training")
def test_job_given_back_does_not_count_an_attempt(catalog: UnitOfWorkFactory) -> None:
    for _ in range(SETTINGS.job_attempts + 2):
        job, lease = take(catalog)
        assert job.attempts == 1
        with catalog() as uow:
            give_back(uow, lease)


@pytest.mark.usefixtures("training")
def test_metric_that_is_not_finite_is_stored_as_null(catalog: UnitOfWorkFactory) -> None:
    _, lease = take(catalog)
    with catalog() as uow:
        advance(uow, lease, metrics={"test": {"auc": float("nan"), "loss": [float("inf"), 0.5]}})
    with catalog(write=False) as uow:
        metrics = uow.jobs.get(lease.job_id).metrics
    assert metrics == {"test": {"auc": None, "loss": [None, 0.5]}}
