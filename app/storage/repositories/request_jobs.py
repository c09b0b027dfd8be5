"""The jobs that took part in deletion requests, with their audit of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, tuple_, update

from app.domain.requests import Outcome, RequestJob
from app.storage.repositories.base import Repository, portions
from app.storage.tables import RequestJobRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Row

    from app.domain.requests import ForgetRequest


class RequestJobRepository(Repository):
    """Rows are added when a batch is assigned to a job, and never removed."""

    def add(
        self, job_id: str, request_ids: Iterable[str], *, outcome: Outcome | None = None
    ) -> None:
        for portion in portions(request_ids):
            values = {"job_id": job_id, "outcome": None if outcome is None else outcome.value}
            rows = [{"request_id": request_id, **values} for request_id in portion]
            self._connection.execute(
                self._insert(RequestJobRow).values(rows).on_conflict_do_nothing()
            )

    def set_audit(
        self, job_id: str, request_id: str, outcome: Outcome | None, figures: dict[str, Any] | None
    ) -> None:
        """Store the job's outcome and figures of this request alone."""
        self._connection.execute(
            update(RequestJobRow)
            .where(RequestJobRow.job_id == job_id, RequestJobRow.request_id == request_id)
            .values(outcome=None if outcome is None else outcome.value, figures=figures)
        )

    def of_request(self, request_id: str) -> list[RequestJob]:
        """Return the jobs of the request, ordered by job id."""
        rows = self._connection.execute(
            select(RequestJobRow.__table__)
            .where(RequestJobRow.request_id == request_id)
            .order_by(RequestJobRow.job_id)
        )
        return [_request_job(row) for row in rows]

    def completing(self, requests: Iterable[ForgetRequest]) -> dict[str, RequestJob]:
        """Return the audit by the present job of each request, by request id."""
        keys = [(request.id, request.job_id) for request in requests if request.job_id]
        audits: dict[str, RequestJob] = {}
        for portion in portions(keys):
            rows = self._connection.execute(
                select(RequestJobRow.__table__).where(
                    tuple_(RequestJobRow.request_id, RequestJobRow.job_id).in_(portion)
                )
            )
            audits |= {row.request_id: _request_job(row) for row in rows}
        return audits

    def of_job(self, job_id: str, limit: int) -> list[RequestJob]:
        """Return at most `limit` requests of the job that were audited, ordered by request id."""
        rows = self._connection.execute(
            select(RequestJobRow.__table__)
            .where(RequestJobRow.job_id == job_id, RequestJobRow.outcome.is_not(None))
            .order_by(RequestJobRow.request_id)
            .limit(limit)
        )
        return [_request_job(row) for row in rows]

    def count_by_outcome(self, job_id: str) -> dict[str, int]:
        """Return the number of audited requests of the job per outcome."""
        rows = self._connection.execute(
            select(RequestJobRow.outcome, func.count())
            .where(RequestJobRow.job_id == job_id, RequestJobRow.outcome.is_not(None))
            .group_by(RequestJobRow.outcome)
        )
        return {row[0]: row[1] for row in sorted(rows.all()) if row[0] is not None}


def _request_job(row: Row[Any]) -> RequestJob:
    return RequestJob(
        request_id=row.request_id,
        job_id=row.job_id,
        outcome=None if row.outcome is None else Outcome(row.outcome),
        figures=row.figures,
    )
