"""JSON of liveness and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

from app.api.schemas.common import Answer, HealthAnswer

if TYPE_CHECKING:
    from app.services.attention import Attention


class WorkerAnswer(Answer):
    """A worker process, and the seconds since its last heartbeat."""

    host: str
    heartbeat_age: float
    is_live: bool


class WarningAnswer(Answer):
    """A state that needs an operator, with the job that it concerns."""

    code: str
    detail: str
    job_id: str | None


class RenewalAnswer(Answer):
    """The next exact training, or the one that runs, and the deletions that wait for it."""

    start_at: datetime | None
    reason: str | None
    approximate: int
    earliest_due_at: datetime | None


class ReadinessAnswer(HealthAnswer):
    """Readiness of this replica; the other fields describe the whole installation.

    They do not change the status, and are null while the database does not answer in time.
    """

    worker_count: int | None = None
    workers: list[WorkerAnswer] | None = None
    warnings: list[WarningAnswer] | None = None
    #: Null also if no deletion is approximate.
    renewal: RenewalAnswer | None = None

    @classmethod
    def of(cls, reasons: list[str], attention: Attention | None) -> Self:
        answer = cls(status="not ready" if reasons else "ok", reasons=reasons)
        if attention is not None:
            answer.worker_count = attention.live_workers
            answer.workers = [WorkerAnswer.model_validate(each) for each in attention.workers]
            answer.warnings = [WarningAnswer.model_validate(each) for each in attention.warnings]
            if attention.renewal.approximate:
                answer.renewal = RenewalAnswer.model_validate(attention.renewal)
        return answer
