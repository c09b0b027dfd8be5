"""Records a job that trains from scratch: the first release, or an exact renewal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.errors import InvalidInputError, NothingToTrainError
from app.domain.jobs import Job, JobKind, JobStatus
from app.services.identifiers import new_id
from app.services.wakeups import Topic

if TYPE_CHECKING:
    from app.services.ports import UnitOfWork


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
