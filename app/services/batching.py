"""Closes a batch: gives the requests that are ready to one new job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ConflictError, JobRunningError
from app.domain.jobs import Job, JobKind, JobStatus
from app.domain.requests import RequestStatus
from app.services.identifiers import new_id
from app.services.wakeups import Topic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.requests import ForgetRequest
    from app.services.policies import BatchPolicy
    from app.services.ports import UnitOfWork


def close_batch(uow: UnitOfWork, policy: BatchPolicy) -> Job | None:
    """Make the forget job of the next batch and freeze its requests, or return None.

    Nothing happens while any job is open: what arrives meanwhile waits. A request that is being
    cancelled at this moment is simply not among those that are ready.
    """
    if uow.jobs.open_job() is not None:
        return None
    ready = uow.requests.ready_for_batch(policy.size)
    now = uow.state.now()
    if not _is_due(ready, policy, now):
        return None
    job = Job(
        id=new_id("job"),
        kind=JobKind.FORGET,
        status=JobStatus.QUEUED,
        method=policy.method,
        parent_release=uow.releases.alias().live,
        created_at=now,
    )
    retried = any(request.failures for request in ready)
    try:
        uow.jobs.add(job, delay_seconds=policy.retry_delay if retried else 0.0)
    except JobRunningError:
        return None  # Somebody was faster by a moment.
    if uow.requests.freeze_batch([request.id for request in ready], job.id) == 0:
        # Cannot be while the ready ones are locked; raising undoes the job all the same.
        raise ConflictError("Every request of the batch was taken by somebody else.")
    uow.outbox.add(Topic.JOB, job.id)
    return job


def _is_due(ready: Sequence[ForgetRequest], policy: BatchPolicy, now: datetime) -> bool:
    if len(ready) >= policy.size:
        return True
    # Requests of a failed job have waited long enough; others wait from when they became ready.
    return any(
        request.status is RequestStatus.BATCHED
        or (now - request.cancellable_until).total_seconds() >= policy.seconds
        for request in ready
    )
