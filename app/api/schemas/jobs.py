"""JSON of training and unlearning jobs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from app.api.schemas.common import Answer
from app.api.schemas.findings import JobFindingAnswer
from app.domain.batch_audits import audits_of
from app.services.findings import findings_of_job

if TYPE_CHECKING:
    from app.domain.jobs import Job
    from app.domain.renewal import ExactMode
    from app.storage.unit_of_work import UnitOfWork


class AuditAnswer(Answer):
    """The audit of weights that a job built, for its batch as a whole.

    An interrupted attempt is repeated under a higher `epoch`. `outcome` and `sentence` are null for
    a first release, which is compared with nothing.
    """

    attempt: str | None
    epoch: int | None
    method: str | None
    outcome: str | None
    sentence: str | None


class JobAnswer(Answer):
    """Training or unlearning job; `metrics` has all figures of its audits."""

    id: str
    kind: str
    #: Why the scheduler started the renewal; null for other jobs.
    reason: str | None = Field(validation_alias="renewal_reason")
    status: str
    method: str
    stage: str
    progress: float
    attempts: int
    metrics: dict[str, Any]
    parent_release: str | None
    release: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: The audits of the batch, in order; a job escalates until an audit does not fail.
    audits: list[AuditAnswer] = Field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> Self:
        answer = cls.model_validate(job)
        answer.audits = [AuditAnswer(**audit) for audit in audits_of(job)]
        return answer


class JobDetailAnswer(JobAnswer):
    """A job, with the number of its requests per outcome, and what it shows about each request."""

    outcomes: dict[str, int] = Field(default_factory=dict)
    #: At most 200 requests, ordered by id.
    findings: list[JobFindingAnswer] = Field(default_factory=list)

    @classmethod
    def read(cls, uow: UnitOfWork, job_id: str, mode: ExactMode | None) -> Self:
        """Return the job. `mode` is LETHE_EXACT."""
        job = uow.jobs.get(job_id)
        answer = cls.of(job)
        answer.outcomes = uow.request_jobs.count_by_outcome(job_id)
        answer.findings = [
            JobFindingAnswer.in_job(found) for found in findings_of_job(uow, job, mode)
        ]
        return answer


class JobPage(Answer):
    """Jobs, newest first."""

    items: list[JobAnswer]
    next_cursor: str | None
