"""The life of a job: claimed, renewed, advanced together with its requests, failed, swept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import UnknownJobError
from app.domain.jobs import OPEN_JOB_STATUSES, JobStatus, Lease, Stage
from app.domain.requests import RequestStatus
from app.services.wakeups import Topic

if TYPE_CHECKING:
    from app.domain.jobs import Job
    from app.services.policies import JobPolicy
    from app.services.ports import UnitOfWork

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


def claim(uow: UnitOfWork, owner: str, policy: JobPolicy) -> tuple[Job, Lease] | None:
    """Claim the job that waits for a worker, if any; its requests show that work has begun."""
    claimed = uow.jobs.claim(owner, policy.lease_seconds, max_attempts=policy.attempts)
    if claimed is not None:
        job, lease = claimed
        uow.requests.advance_of_job(lease, _REQUEST_STATUS[job.status], job.progress)
    return claimed


def renew(uow: UnitOfWork, lease: Lease, policy: JobPolicy) -> None:
    """Extend the lease, or raise LeaseLostError."""
    uow.jobs.renew(lease, policy.lease_seconds)


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


def fail(uow: UnitOfWork, lease: Lease, error: str, policy: JobPolicy) -> list[str]:
    """End the job as failed and return its requests to `batched`; return those that died.

    `error` is shown to operators and must name nobody.
    """
    uow.jobs.update(lease, status=JobStatus.FAILED, error=error)
    return _let_go(uow, lease, policy)


def succeed(uow: UnitOfWork, lease: Lease) -> None:
    """End a job without requests; one with requests ends in `app.services.complete`."""
    uow.jobs.update(lease, status=JobStatus.SUCCEEDED, stage=Stage.DONE, progress=1.0)
    # Deletions that waited for this job can be batched now.
    uow.outbox.add(Topic.REQUEST, lease.job_id)


def sweep(uow: UnitOfWork, policy: JobPolicy) -> Sweep:
    """Give up jobs that ran out of attempts, and wake somebody for those that can be claimed.

    A queued job is woken for as well: its first wake-up may have been lost with the broker.
    """
    abandoned: list[str] = []
    woken = uow.jobs.claimable()
    for job in uow.jobs.expired():
        if job.attempts < policy.attempts:
            woken.append(job.id)
            continue
        lease = Lease(job_id=job.id, epoch=job.epoch, owner=job.lease_owner or "")
        error = f"given up after {job.attempts} attempts, the last in stage {job.stage}"
        if uow.jobs.abandon(job.id, error):
            _let_go(uow, lease, policy)
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


def _let_go(uow: UnitOfWork, lease: Lease, policy: JobPolicy) -> list[str]:
    """Release the requests of a job that has just ended, and stop replicas from preparing."""
    dead = uow.requests.release_of_job(lease, max_failures=policy.request_failures)
    job = uow.jobs.get(lease.job_id)
    if job.release is not None and uow.releases.alias().target == job.release:
        uow.releases.set_target(None)
    uow.outbox.add(Topic.REQUEST, lease.job_id)
    return dead
