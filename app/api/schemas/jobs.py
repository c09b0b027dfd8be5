"""JSON of training and unlearning jobs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from app.api.schemas.common import Answer

if TYPE_CHECKING:
    from app.domain.jobs import Job


class JobAnswer(Answer):
    """Training or unlearning job; `metrics` has all figures of its audit."""

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

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls.model_validate(job)


class JobPage(Answer):
    """Jobs, newest first."""

    items: list[JobAnswer]
    next_cursor: str | None
