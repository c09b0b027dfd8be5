"""Read what the audits show about deletion requests, in the words of `app.domain.findings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.findings import Prospect, finding, finding_of
from app.domain.requests import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.findings import AuditFinding
    from app.domain.jobs import Job
    from app.domain.renewal import ExactMode
    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork

#: A renewal may make any number of deletions exact; a job shows this many of them.
MOST_PER_JOB: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinding:
    """The finding of one request in one job."""

    request: ForgetRequest
    finding: AuditFinding


def findings_of(
    uow: UnitOfWork, requests: Iterable[ForgetRequest], mode: ExactMode | None
) -> dict[str, AuditFinding]:
    """Return the findings of the completed requests, by request id. `mode` is LETHE_EXACT."""
    completed = [request for request in requests if request.status is RequestStatus.COMPLETED]
    audits = uow.request_jobs.completing(completed)
    findings = {}
    for request in completed:
        found = finding_of(
            request, audits.get(request.id), mode, has_release=request.release is not None
        )
        if found is not None:
            findings[request.id] = found
    return findings


def findings_of_job(uow: UnitOfWork, job: Job, mode: ExactMode | None) -> list[JobFinding]:
    """Return the findings of at most MOST_PER_JOB requests that the job audited or made exact."""
    audits = {audit.request_id: audit for audit in uow.request_jobs.of_job(job.id, MOST_PER_JOB)}
    return [
        JobFinding(
            request=request,
            finding=finding(
                request.scope,
                audit.outcome,
                audit.figures,
                Prospect.of(request, mode),
                has_release=job.release is not None,
            ),
        )
        for request in uow.requests.with_ids(audits)
        if (audit := audits[request.id]).outcome is not None
    ]
