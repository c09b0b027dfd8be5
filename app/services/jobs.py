"""The life of a job: claimed, renewed, advanced together with its requests, failed, swept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import (
    ConflictError,
    InvalidInputError,
    JobRunningError,
    NothingToTrainError,
    UnknownJobError,
)
from app.domain.identifiers import new_id
from app.domain.jobs import OPEN_JOB_STATUSES, Job, JobKind, JobStatus, Lease, Stage
from app.domain.outbox import Topic
from app.domain.requests import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.requests import ForgetRequest
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

#: Publishing is still the audit's step for whoever asked: nothing new serves yet.
_REQUEST_STATUS: Final = {
    JobStatus.RUNNING: RequestStatus.UNLEARNING,
    JobStatus.AUDITING: RequestStatus.AUDITING,
    JobStatus.PUBLISHING: RequestStatus.AUDITING,
    JobStatus.ROLLING_OUT: RequestStatus.ROLLING_OUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep did: jobs given up, and jobs for which a wake-up was written."""

    abandoned: tuple[str, ...]
    woken: tuple[str, ...]


def claim(uow: UnitOfWork, owner: str, settings: Settings) -> tuple[Job, Lease] | None:
    """Claim the job that waits for a worker, if any; its requests show that work has begun."""
    claimed = uow.jobs.claim(owner, settings.job_lease, max_attempts=settings.job_attempts)
    if claimed is not None:
        job, lease = claimed
        uow.requests.advance_of_job(lease, _REQUEST_STATUS[job.status], job.progress)
    return claimed


def give_back(uow: UnitOfWork, lease: Lease) -> None:
    """End the lease at once, so that another worker need not wait for it to expire.

    The attempt does not count: being asked to stop is no failure of the job.
    """
    uow.jobs.update(lease, attempts=max(0, uow.jobs.get(lease.job_id).attempts - 1))
    uow.jobs.renew(lease, 0.0)
    uow.outbox.add(Topic.JOB, lease.job_id)


def advance(uow: UnitOfWork, lease: Lease, **changes: Any) -> None:
    """Write the job's status, stage, progress or metrics, and take its requests along.

    `metrics` are added to those that the job has; every other change replaces. Raises
    LeaseLostError when the lease is stale, and then nothing is written.
    """
    job = uow.jobs.get(lease.job_id)
    if "metrics" in changes:
        changes["metrics"] = {**job.metrics, **changes["metrics"]}
    uow.jobs.update(lease, **changes)
    status = changes.get("status", job.status)
    if status in _REQUEST_STATUS:
        progress = changes.get("progress", job.progress)
        uow.requests.advance_of_job(lease, _REQUEST_STATUS[status], progress)


def fail(uow: UnitOfWork, lease: Lease, error: str, settings: Settings) -> list[str]:
    """End the job as failed and return its requests to `batched`; return those that died.

    `error` is shown to operators and must name nobody.
    """
    uow.jobs.update(lease, status=JobStatus.FAILED, error=error)
    return _let_go(uow, lease, settings)


def succeed(uow: UnitOfWork, lease: Lease) -> None:
    """End a job without requests; one with requests ends in `app.services.completion`."""
    uow.jobs.update(lease, status=JobStatus.SUCCEEDED, stage=Stage.DONE, progress=1.0)
    # Deletions that waited for this job can be batched now.
    uow.outbox.add(Topic.REQUEST, lease.job_id)


def sweep(uow: UnitOfWork, settings: Settings) -> Sweep:
    """Give up jobs that ran out of attempts, and wake somebody for those that can be claimed.

    A queued job is woken for as well: its first wake-up may have been lost with the broker.
    """
    abandoned: list[str] = []
    woken = uow.jobs.claimable()
    for job in uow.jobs.expired():
        if job.attempts < settings.job_attempts:
            woken.append(job.id)
            continue
        lease = Lease(job_id=job.id, epoch=job.epoch, owner=job.lease_owner or "")
        error = f"given up after {job.attempts} attempts, the last in stage {job.stage}"
        if uow.jobs.abandon(job.id, error):
            _let_go(uow, lease, settings)
            abandoned.append(job.id)
    for job_id in woken:
        uow.outbox.add(Topic.JOB, job_id)
    return Sweep(abandoned=tuple(abandoned), woken=tuple(woken))


def has_ended(uow: UnitOfWork, job_id: str) -> bool:
    """Say whether this database knows the job and nobody will ever work on it again.

    What it does not know is perhaps another installation's, and is left alone.
    """
    try:
        return uow.jobs.get(job_id).status not in OPEN_JOB_STATUSES
    except UnknownJobError:
        return False


def _let_go(uow: UnitOfWork, lease: Lease, settings: Settings) -> list[str]:
    """Release the requests of a job that has just ended, and stop replicas from preparing."""
    dead = uow.requests.release_of_job(lease, max_failures=settings.request_failures)
    job = uow.jobs.get(lease.job_id)
    if job.release is not None and uow.releases.alias().target == job.release:
        uow.releases.set_target(None)
    uow.outbox.add(Topic.REQUEST, lease.job_id)
    return dead


def close_batch(uow: UnitOfWork, settings: Settings) -> Job | None:
    """Make the forget job of the next batch and freeze its requests, or return None.

    Nothing happens while any job is open: what arrives meanwhile waits. A request that is being
    cancelled at this moment is simply not among those that are ready.
    """
    if uow.jobs.open_job() is not None:
        return None
    ready = uow.requests.ready_for_batch(settings.batch_size)
    now = uow.state.now()
    if not _is_due(ready, settings, now):
        return None
    job = Job(
        id=new_id("job"),
        kind=JobKind.FORGET,
        status=JobStatus.QUEUED,
        method=settings.method,
        parent_release=uow.releases.alias().live,
        created_at=now,
    )
    retried = any(request.failures for request in ready)
    try:
        uow.jobs.add(job, delay_seconds=settings.retry_delay if retried else 0.0)
    except JobRunningError:
        return None  # Somebody was faster by a moment.
    if uow.requests.assign_batch([request.id for request in ready], job.id) == 0:
        # Cannot be while the ready ones are locked; raising undoes the job all the same.
        raise ConflictError("Every request of the batch was taken by somebody else.")
    uow.outbox.add(Topic.JOB, job.id)
    return job


def _is_due(ready: Sequence[ForgetRequest], settings: Settings, now: datetime) -> bool:
    if len(ready) >= settings.batch_size:
        return True
    # Requests of a failed job have waited long enough; others wait from when they became ready.
    return any(
        request.status is RequestStatus.BATCHED
        or (now - request.cancellable_until).total_seconds() >= settings.batch_seconds
        for request in ready
    )


def start_training(
    uow: UnitOfWork, kind: JobKind = JobKind.TRAIN, settings: dict[str, Any] | None = None
) -> Job:
    """Record a `train` or `renew` job with its wake-up.

    Raises NothingToTrainError without interactions, JobRunningError while another job is open.
    """
    if kind is JobKind.FORGET:
        raise InvalidInputError("A forget job is made by closing a batch.")
    if uow.people.counts()["interactions"] == 0:
        raise NothingToTrainError
    job = Job(
        id=new_id("job"),
        kind=kind,
        status=JobStatus.QUEUED,
        method="train" if kind is JobKind.TRAIN else "retrain",
        parent_release=uow.releases.alias().live,
        settings=settings or {},
        created_at=uow.state.now(),
    )
    uow.jobs.add(job)
    uow.outbox.add(Topic.JOB, job.id)
    return job
