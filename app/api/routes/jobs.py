"""Training and unlearning jobs: list, read and cancel."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.dependencies import (
    DEFAULT_PAGE,
    Cursor,
    JobPath,
    Limit,
    Reading,
    TheGateway,
    Writing,
)
from app.api.responses import problems
from app.api.schemas.jobs import JobAnswer, JobDetailAnswer, JobPage
from app.services.jobs import cancel as cancel_job
from app.services.pagination import list_jobs

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("", responses=problems("invalid-input"))
def list_all(uow: Reading, limit: Limit = DEFAULT_PAGE, cursor: Cursor = None) -> JobPage:
    """List jobs, newest first."""
    page = list_jobs(uow, limit, cursor)
    return JobPage(items=[JobAnswer.of(job) for job in page.items], next_cursor=page.next_cursor)


@router.get("/{job_id}", responses=problems("unknown-job", "invalid-input"))
def read(job_id: JobPath, gateway: TheGateway, uow: Reading) -> JobDetailAnswer:
    """Return a job with its status, progress, audits, and what they show about each request."""
    return JobDetailAnswer.read(uow, job_id, gateway.settings.exact)


@router.post(
    "/{job_id}/cancel", responses=problems("unknown-job", "job-not-cancellable", "invalid-input")
)
def cancel(job_id: JobPath, uow: Writing) -> JobAnswer:
    """Cancel a training whose release is not live yet; its worker stops at its next write."""
    return JobAnswer.of(cancel_job(uow, job_id))
