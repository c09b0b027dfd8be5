"""JSON of what audits show about single requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from app.api.schemas.common import Answer

if TYPE_CHECKING:
    from app.domain.findings import AuditFinding
    from app.services.findings import JobFinding


class FindingAnswer(Answer):
    """What the audit shows about the person, the interactions or the item of one request.

    `sentence` says it in words. `share` is the change of the answers as a share of the change that
    is expected of a model that never had the data (0: nothing was forgotten, 1: as after
    retraining), with its `interval` at the level `confidence`, from `rows` rows; null if not
    measured. `persons` counts the persons per outcome, if rows of several persons are deleted.
    """

    sentence: str
    outcome: str
    reason: str | None
    rows: int | None
    share: float | None
    interval: tuple[float, float] | None
    confidence: float | None
    persons: dict[str, int] | None
    failed_attempts: int

    @classmethod
    def of(cls, finding: AuditFinding) -> Self:
        return cls.model_validate(finding)


class JobFindingAnswer(FindingAnswer):
    """What the audit of a job shows about one of its requests."""

    request: str
    scope: str

    @classmethod
    def in_job(cls, of_job: JobFinding) -> Self:
        request = of_job.request
        return cls(request=request.id, scope=request.scope.value, **of_job.finding.values())
