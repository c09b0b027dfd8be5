"""Jobs: create them, lease them to workers, and end them.

A job is created by `start_training` or `close_batch`, claimed and advanced by a worker under a
lease, and ended by `succeed`, `fail`, `sweep`, `cancel` or `app.services.completion.finish`. After
the flip a job is retried until `finish` or `succeed`: it neither fails nor is abandoned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import (
    ConflictError,
    InvalidInputError,
    JobNotCancellableError,
    JobRunningError,
    NothingToTrainError,
    RestoringError,
)
from app.domain.identifiers import new_id
from app.domain.jobs import (
    CANCELLED_BY_OPERATOR,
    OPEN_JOB_STATUSES,
    Job,
    JobKind,
    JobStatus,
    Lease,
    Stage,
)
from app.domain.outbox import Topic
from app.domain.requests import RequestStatus
from app.services.batches import next_batch
from app.services.retries import back_off, has_lost_rows, retries, return_requests

if TYPE_CHECKING:
    from app.domain.jobs import Failure
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

#: Job status → status of the job's requests. While a job publishes, no new release serves yet, so
#: its requests stay in `auditing`.
_REQUEST_STATUS: Final = {
    JobStatus.RUNNING: RequestStatus.UNLEARNING,
    JobStatus.AUDITING: RequestStatus.AUDITING,
    JobStatus.PUBLISHING: RequestStatus.AUDITING,
    JobStatus.ROLLING_OUT: RequestStatus.ROLLING_OUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The result of a sweep: ids of abandoned jobs, and of jobs that got a wake-up message."""

    abandoned: tuple[str, ...]
    woken: tuple[str, ...]


def start_training(
    uow: UnitOfWork, kind: JobKind = JobKind.TRAIN, settings: dict[str, Any] | None = None
) -> Job:
    """Create a `train` or `renew` job and its wake-up message.

    Raises JobRunningError while another job is open, RestoringError while deletions are repeated
    after a restore, and NothingToTrainError without interactions, unless the scheduler starts the
    renewal: deletions become exact without any row left, too.
    """
    if kind is JobKind.FORGET:
        raise InvalidInputError(
            "A job of the kind 'forget' cannot be started. Request a deletion instead."
        )
    settings = settings or {}
    if "reason" not in settings and uow.people.counts()["interactions"] == 0:
        raise NothingToTrainError
    if uow.state.restoring():
        raise RestoringError
    job = Job(
        id=new_id("job"),
        kind=kind,
        status=JobStatus.QUEUED,
        method="train" if kind is JobKind.TRAIN else "retrain",
        parent_release=uow.releases.alias().live,
        settings=settings,
        created_at=uow.state.now(),
    )
    uow.jobs.add(job)
    uow.outbox.add(Topic.JOB, job.id)
    return job


def close_batch(uow: UnitOfWork, settings: Settings) -> Job | None:
    """Create the forget job of the next batch and assign the ready requests to the job.

    Return None while any job is open or no batch is due.
    """
    if uow.jobs.open_job() is not None:
        return None
    ready = next_batch(uow, settings)
    if not ready:
        return None
    live = uow.releases.alias().live
    is_exact = live is not None and any(has_lost_rows(uow, request) for request in ready)
    job = Job(
        id=new_id("job"),
        kind=JobKind.FORGET,
        status=JobStatus.QUEUED,
        method="retrain" if is_exact else settings.method,
        parent_release=live,
        created_at=uow.state.now(),
    )
    try:
        uow.jobs.add(job)
    except JobRunningError:
        return None  # Another process created a job since the check above.
    request_ids = [request.id for request in ready]
    if uow.requests.assign_batch(request_ids, job.id) == 0:
        # The ready requests are locked, so this cannot happen. The error rolls the job back.
        raise ConflictError("Another transaction assigned every request of the batch to a job.")
    uow.request_jobs.add(job.id, request_ids)
    uow.outbox.add(Topic.JOB, job.id)
    return job


def claim(uow: UnitOfWork, owner: str, settings: Settings) -> tuple[Job, Lease] | None:
    """Claim the job that waits for a worker, if any, and update the status of its requests."""
    claimed = uow.jobs.claim(owner, settings.job_lease, max_attempts=settings.job_attempts)
    if claimed is not None:
        job, lease = claimed
        uow.requests.advance_of_job(lease, _REQUEST_STATUS[job.status], job.progress)
    return claimed


def advance(uow: UnitOfWork, lease: Lease, **changes: Any) -> None:
    """Write changes of a job, and its status and progress to the job's requests.

    `metrics` are merged into the job's metrics; every other change replaces the old value. Raises
    LeaseLostError when the lease is stale, and then writes nothing.
    """
    job = uow.jobs.get(lease.job_id)
    if "metrics" in changes:
        changes["metrics"] = {**job.metrics, **changes["metrics"]}
    uow.jobs.update(lease, **changes)
    status = changes.get("status", job.status)
    if status in _REQUEST_STATUS:
        progress = changes.get("progress", job.progress)
        uow.requests.advance_of_job(lease, _REQUEST_STATUS[status], progress)


def give_back(uow: UnitOfWork, lease: Lease) -> None:
    """End the lease at once, so that another worker can claim the job.

    The attempt does not count: a worker that shuts down is no failure of the job.
    """
    uow.jobs.update(lease, attempts=max(0, uow.jobs.get(lease.job_id).attempts - 1))
    uow.jobs.renew(lease, 0.0)
    uow.outbox.add(Topic.JOB, lease.job_id)


def succeed(uow: UnitOfWork, lease: Lease) -> None:
    """End a job without requests. `app.services.completion.finish` ends a job with requests."""
    uow.jobs.update(lease, status=JobStatus.SUCCEEDED, stage=Stage.DONE, progress=1.0)
    # Requests that waited for the end of this job can now be batched.
    uow.outbox.add(Topic.REQUEST, lease.job_id)


def record_failure(
    uow: UnitOfWork, lease: Lease, failure: Failure, settings: Settings
) -> JobStatus:
    """Retry the job later, or end the job as failed; return the job's status.

    After the flip every failure is retried. Before the flip, a deletion is retried as it is if
    the environment failed, and so is a scheduled renewal while no deletion waits: otherwise the
    renewal ends, so that deletions need not wait for the end of the fault. A training ends, unless
    the error is expected to end by itself.
    """
    uow.jobs.update(lease)
    job = uow.jobs.get(lease.job_id)
    is_renewal = job.renewal_reason is not None
    is_automatic = job.kind is JobKind.FORGET or is_renewal
    is_retried = failure.is_transient or (is_automatic and failure.is_environmental)
    if is_renewal and uow.requests.any_waiting():
        is_retried = False
    if is_retried or uow.jobs.is_past_flip(job.id):
        _retry_later(uow, lease, job, failure, settings)
        return job.status
    fail(uow, lease, failure.text, settings, signature=failure.signature)
    return JobStatus.FAILED


def _retry_later(
    uow: UnitOfWork, lease: Lease, job: Job, failure: Failure, settings: Settings
) -> None:
    """Record the error, and let the lease end after a back-off. The attempt does not count."""
    metric = retries(job, job.stage, failure.text)
    uow.jobs.update(
        lease,
        error=failure.text,
        attempts=max(0, job.attempts - 1),
        metrics={**job.metrics, "retries": metric},
    )
    uow.jobs.renew(lease, back_off(settings.retry_delay, int(metric[job.stage.value]["count"])))


def fail(
    uow: UnitOfWork, lease: Lease, error: str, settings: Settings, *, signature: str | None = None
) -> list[str]:
    """End the job as failed, release its requests, and return the ids of requests that are dead.

    Operators read `error`, so the text must contain no user or item id. `signature` is equal for
    failures of the same kind; the default is the error.
    """
    uow.jobs.update(lease, status=JobStatus.FAILED, error=error)
    return _release_requests(uow, lease, settings, signature or error)


def cancel(uow: UnitOfWork, job_id: str, error: str = CANCELLED_BY_OPERATOR) -> Job:
    """Cancel a training that is not past the flip, and return the job.

    `error` is the reason in the job's row; only the cancel of an operator postpones the next
    renewal. The worker's next write then fails. Raises UnknownJobError or JobNotCancellableError.
    """
    job = uow.jobs.get(job_id)
    if job.kind is JobKind.FORGET:
        raise JobNotCancellableError(
            f"The job {job_id} carries out deletions. Cancel the deletion request instead."
        )
    if not uow.jobs.cancel(job_id, error):
        job = uow.jobs.get(job_id)
        if job.status in OPEN_JOB_STATUSES:
            raise JobNotCancellableError(
                f"The job {job_id} can no longer be cancelled: its release {job.release} is live. "
                "A worker finishes its last stages."
            )
        raise JobNotCancellableError(f"The job {job_id} has ended already: it is {job.status}.")
    _clear_target(uow, uow.jobs.get(job_id))
    uow.outbox.add(Topic.REQUEST, job_id)  # Requests that waited for the job can be batched.
    return uow.jobs.get(job_id)


def sweep(uow: UnitOfWork, settings: Settings) -> Sweep:
    """Abandon jobs without attempts left, and write wake-up messages for claimable jobs.

    A job past the flip is never abandoned. Queued jobs get a message too, because the broker may
    have lost the first message.
    """
    abandoned: list[str] = []
    woken = uow.jobs.claimable()
    for job in uow.jobs.expired():
        if job.attempts < settings.job_attempts or uow.jobs.is_past_flip(job.id):
            woken.append(job.id)
            continue
        lease = Lease(job_id=job.id, epoch=job.epoch, owner=job.lease_owner or "")
        error = f"abandoned after {job.attempts} attempts, the last in the stage {job.stage}"
        if uow.jobs.abandon(job.id, error):
            _release_requests(uow, lease, settings, f"{job.stage}: worker-lost")
            abandoned.append(job.id)
    for job_id in woken:
        uow.outbox.repeat(Topic.JOB, job_id)
    return Sweep(abandoned=tuple(abandoned), woken=tuple(woken))


def has_ended(uow: UnitOfWork, job_id: str) -> bool:
    """Return whether this database has the job and no worker will work on the job again.

    An unknown job may belong to another installation that shares the file system, so the answer
    is False.
    """
    job = uow.jobs.find(job_id)
    return job is not None and job.status not in OPEN_JOB_STATUSES


def _release_requests(
    uow: UnitOfWork, lease: Lease, settings: Settings, signature: str
) -> list[str]:
    """Release the requests of an ended job and clear its release as the rollout target.

    Return the ids of requests that have failed too often and are dead now.
    """
    job = uow.jobs.get(lease.job_id)
    dead_ids = return_requests(uow, lease, job.stage, signature, settings)
    _clear_target(uow, job)
    uow.outbox.add(Topic.REQUEST, lease.job_id)
    return dead_ids


def _clear_target(uow: UnitOfWork, job: Job) -> None:
    """Clear the release of an ended job as the rollout target."""
    if job.release is not None and uow.releases.alias().target == job.release:
        uow.releases.set_target(None)
