"""What an operator should look at: workers, and jobs and deletions that make no progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.domain.jobs import JobStatus
from app.services.renewal_outlook import RenewalOutlook, read_outlook

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.jobs import Job
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


#: A worker takes a due job within seconds. After this time, the workers do not consume.
NOT_TAKEN_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker process. A worker that was killed stays listed for ten lifetimes of its lease."""

    host: str
    heartbeat_age: float
    is_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning:  # noqa: A001 # the builtin is a class of exceptions, which this module never uses
    """A state that needs an operator. `code` is stable; `detail` contains no personal data."""

    code: str
    detail: str
    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The workers and the warnings at one moment."""

    workers: tuple[WorkerState, ...] = ()
    warnings: tuple[Warning, ...] = ()
    #: Number of jobs past the flip whose last try failed.
    stuck: int = 0
    #: Number of failed tries of the open job.
    failed_tries: int = 0
    #: Number of jobs that no worker runs, or that are missing because no worker closes the batch.
    without_worker: int = 0
    #: Number of live replicas that report a problem of the rollout.
    with_problem: int = 0
    renewal: RenewalOutlook = field(default_factory=RenewalOutlook)

    @property
    def live_workers(self) -> int:
        return sum(worker.is_live for worker in self.workers)


def read_attention(uow: UnitOfWork, settings: Settings) -> Attention:
    """Read the state of workers, of the open job and of waiting deletions."""
    workers = tuple(
        WorkerState(
            host=host,
            heartbeat_age=round(max(0.0, settings.job_lease - expires_in), 1),
            is_live=expires_in >= 0,
        )
        for host, expires_in in uow.workers.leases()
    )
    now = uow.state.now()
    job = uow.jobs.open_job()
    is_served = any(worker.is_live for worker in workers)
    unserved = _without_worker(uow, job, now, settings, is_served=is_served)
    warnings = [unserved] if unserved else []
    is_stuck = job is not None and job.error is not None and uow.jobs.is_past_flip(job.id)
    if job is not None and job.error is not None:
        warnings.append(_failed_try(job, is_stuck=is_stuck))
    warnings += _retried_requests(uow)
    warnings += _restoring(uow)
    live_replicas = uow.replicas.live(settings.replica_margin)
    problems = [replica.problem for replica in live_replicas if replica.problem is not None]
    warnings += _of_rollout(problems, len(live_replicas))
    renewal = read_outlook(uow, settings, job)
    warnings += _of_renewals(renewal, job)
    return Attention(
        workers=workers,
        warnings=tuple(warnings),
        stuck=int(is_stuck),
        failed_tries=job.failed_tries if job is not None else 0,
        without_worker=int(unserved is not None),
        with_problem=len(problems),
        renewal=renewal,
    )


def _without_worker(  # noqa: PLR0911 -- one return for each state
    uow: UnitOfWork, job: Job | None, now: datetime, settings: Settings, *, is_served: bool
) -> Warning | None:
    """Return a warning if a job or a deletion has waited longer than a lease without a worker."""
    if job is None:
        since = uow.requests.waiting_since()
        if is_served or since is None or (now - since).total_seconds() <= settings.job_lease:
            return None
        return Warning(
            code="no-worker", detail="Deletions wait, and no worker runs. Start a worker."
        )
    if job.status is not JobStatus.QUEUED:
        if job.lease_expires_at is None or job.lease_expires_at >= now:
            return None
        detail = f"No worker holds the lease of the job {job.id}, in the stage {job.stage}."
        return Warning(code="lease-expired", detail=detail, job_id=job.id)
    if is_served:
        return _not_taken(uow, job)
    available_at = job.available_at or job.created_at
    if (now - available_at).total_seconds() <= settings.job_lease:
        return None
    detail = f"The job {job.id} is queued, and no worker runs. Start a worker."
    return Warning(code="no-worker", detail=detail, job_id=job.id)


def seconds_not_taken(uow: UnitOfWork) -> float:
    """Return for how long running workers have not taken a due job; 0 without such a job."""
    job = uow.jobs.open_job()
    if job is None or job.status is not JobStatus.QUEUED:
        return 0.0
    waited = (uow.state.now() - (job.available_at or job.created_at)).total_seconds()
    # A worker that has just started had no time to take the job.
    return max(0.0, min(waited, uow.workers.running_for()))


def _not_taken(uow: UnitOfWork, job: Job) -> Warning | None:
    """Return a warning if none of the running workers takes the job."""
    if seconds_not_taken(uow) <= NOT_TAKEN_SECONDS:
        return None
    detail = (
        f"The job {job.id} is due, and no running worker takes it. Check that the workers consume"
        " the queue of the broker, and restart them."
    )
    return Warning(code="job-not-taken", detail=detail, job_id=job.id)


def _failed_try(job: Job, *, is_stuck: bool) -> Warning:
    position = "after its release went live" if is_stuck else "and will be repeated"
    return Warning(
        code="job-stuck" if is_stuck else "job-retried",
        detail=f"The last try of the job {job.id} failed {position}: {job.error}"
        f" ({job.failed_tries} failed tries).",
        job_id=job.id,
    )


def _retried_requests(uow: UnitOfWork) -> list[Warning]:
    """Return a warning per kind of failure of the deletions that wait for their next job."""
    return [
        Warning(
            code="deletions-retried",
            detail=f"{number} deletion requests wait for a retry. Last failure: {failure}",
        )
        for failure, number in uow.requests.retried()
    ]


def _restoring(uow: UnitOfWork) -> list[Warning]:
    """Return a warning while deletions are repeated after a restore."""
    number = uow.state.restoring()
    if not number:
        return []
    detail = (
        f"A backup was restored, and {number} deletions are being repeated. No recommendations are"
        " given until then. If one of these deletions is dead, release it."
    )
    return [Warning(code="restoring", detail=detail)]


def _of_rollout(problems: list[str], replica_count: int) -> list[Warning]:
    """Return a warning if live replicas do not follow the rollout."""
    if not problems:
        return []
    detail = (
        f"{len(problems)} of {replica_count} replicas do not follow the rollout: {problems[0]}."
        " `lethe releases` lists them."
    )
    return [Warning(code="rollout-problem", detail=detail)]


def _of_renewals(renewal: RenewalOutlook, job: Job | None) -> list[Warning]:
    """Return a warning if a deadline is missed or cannot be met, and one if renewals fail."""
    warnings = []
    job_id = None if job is None else job.id
    if renewal.overdue:
        blocked = "" if job is None else f" The job {job.id} ({job.kind}) is open."
        detail = f"{renewal.overdue} deletions are not exact after their deadline.{blocked}"
        warnings.append(Warning(code="renewal-late", detail=detail, job_id=job_id))
    elif renewal.is_late and renewal.earliest_due_at is not None:
        due_at = renewal.earliest_due_at.isoformat(timespec="seconds")
        detail = f"The next exact training is not expected to end before the deadline {due_at}."
        warnings.append(Warning(code="renewal-late", detail=detail, job_id=job_id))
    if renewal.history.failures:
        detail = (
            f"{renewal.history.failures} renewals failed since the last exact training. "
            f"Last failure: {renewal.history.error}"
        )
        warnings.append(Warning(code="renewal-failed", detail=detail))
    return warnings
