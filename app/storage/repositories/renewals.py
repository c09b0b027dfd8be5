"""What the scheduler of renewals reads: approximate deletions, exact trainings, renewal jobs.

The scheduler reads twice per second, so every query follows an index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, exists, func, or_, select, true

from app.domain.jobs import (
    CANCELLED_BY_OPERATOR,
    OPEN_JOB_STATUSES,
    PREEMPTED,
    JobKind,
    JobStatus,
    RenewalHistory,
)
from app.domain.requests import OPEN_STATUSES, Assurance, Outcome
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import JobRow, ReleaseRow, RequestRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select

_APPROXIMATE: Final = RequestRow.assurance == Assurance.APPROXIMATE.value
_OPEN: Final = RequestRow.status.in_(sorted(status.value for status in OPEN_STATUSES))
_OVERDUE: Final = RequestRow.exact_due_at <= db_now()
_HAS_ENDED: Final = JobRow.status.not_in(sorted(status.value for status in OPEN_JOB_STATUSES))
_FAILED: Final = JobRow.status.in_([JobStatus.DEAD.value, JobStatus.FAILED.value])
_CANCELLED: Final = JobRow.status == JobStatus.CANCELLED.value
_IS_PREEMPTED: Final = and_(_CANCELLED, func.coalesce(JobRow.error, "") == PREEMPTED)
#: The scheduler started the renewal.
_SCHEDULED: Final = JobRow.settings["reason"].as_string().is_not(None)
#: An operator's training can be a renewal too, without a reason.
_RENEWAL: Final = JobRow.kind == JobKind.RENEW.value
#: The number of trainings and of batches from which durations are expected.
_SAMPLE: Final = 3


class RenewalRepository(Repository):
    """Reads about renewals, over requests, releases and jobs."""

    def debt(self) -> tuple[datetime | None, datetime | None]:
        """Return the earliest completion and the earliest deadline of approximate deletions.

        Both are None if no deletion is approximate.
        """
        # SQLite follows an index for one minimum per query only.
        row = self._connection.execute(
            select(
                select(func.min(RequestRow.completed_at)).where(_APPROXIMATE).scalar_subquery(),
                select(func.min(RequestRow.exact_due_at)).where(_APPROXIMATE).scalar_subquery(),
            )
        ).one()
        return row[0], row[1]

    def count_approximate(self) -> int:
        """Return the number of approximate deletions, from a scan of an index."""
        return self._count(select(func.count()).select_from(RequestRow).where(_APPROXIMATE))

    def count_overdue(self) -> int:
        """Return the number of approximate and open deletions whose deadline has passed."""
        counts = select(func.count()).select_from(RequestRow)
        return self._count(counts.where(_APPROXIMATE, _OVERDUE)) + self._count(
            counts.where(_OPEN, _OVERDUE)
        )

    def restored(self) -> tuple[bool, bool]:
        """Return whether a restore made a deletion approximate, and whether one is repeated."""
        of_restore = exists().where(RequestRow.restored)
        row = self._connection.execute(
            select(of_restore.where(_APPROXIMATE), of_restore.where(_OPEN))
        ).one()
        return bool(row[0]), bool(row[1])

    def last_exact_at(self) -> datetime | None:
        """Return the time at which the latest exact training went live; None without any.

        A time in the future is from before the clock was set back. No later renewal can be told
        from an earlier one by such a time.
        """
        # A first release has no parent to compare with, and no outcome.
        is_exact = or_(ReleaseRow.outcome == Outcome.EXACT.value, ReleaseRow.outcome.is_(None))
        latest: datetime | None = self._connection.execute(
            select(func.max(ReleaseRow.live_at)).where(is_exact, ReleaseRow.live_at <= db_now())
        ).scalar_one()
        return latest

    def batch_seconds(self) -> float:
        """Return the longest duration of the latest successful forget jobs; 0 without any."""
        rows = self._connection.execute(
            select(JobRow.started_at, JobRow.finished_at)
            .where(JobRow.kind == JobKind.FORGET.value, JobRow.status == JobStatus.SUCCEEDED.value)
            .order_by(JobRow.created_at.desc())
            .limit(_SAMPLE)
        )
        return max(
            (
                max(0.0, (row.finished_at - row.started_at).total_seconds())
                for row in rows
                if row.started_at is not None and row.finished_at is not None
            ),
            default=0.0,
        )

    def history(self, since: datetime | None) -> RenewalHistory:
        """Return what became of the renewals that were created after this time, until now."""
        is_later = true() if since is None else JobRow.created_at > since
        after = and_(_RENEWAL, is_later, JobRow.created_at <= db_now())
        totals = self._totals(after)
        scheduled = self._latest(and_(after, _SCHEDULED, _HAS_ENDED))
        failed = self._latest(and_(after, _SCHEDULED, _FAILED))
        latest = self._latest(and_(after, _HAS_ENDED))
        is_cancelled = (
            latest is not None
            and latest.status == JobStatus.CANCELLED.value
            and latest.error == CANCELLED_BY_OPERATOR
        )
        return RenewalHistory(
            preemptions=totals.get("preempted", 0),
            failures=totals.get("failed", 0),
            failed_at=None if failed is None else failed.finished_at,
            error=None if failed is None else failed.error,
            cancelled_at=latest.finished_at if is_cancelled else None,
            seed=0 if scheduled is None else _next_seed(scheduled.settings, scheduled.metrics),
        )

    def totals(self) -> dict[str, int]:
        """Return the number of all scheduled renewals by result, open ones as `open`."""
        return self._totals(_RENEWAL)

    def _totals(self, condition: ColumnElement[bool]) -> dict[str, int]:
        rows = self._connection.execute(
            select(JobRow.status, _IS_PREEMPTED.label("preempted"), func.count().label("number"))
            .where(condition, _SCHEDULED)
            .group_by(JobRow.status, _IS_PREEMPTED)
        )
        totals: dict[str, int] = {}
        for row in rows:
            result = "preempted" if row.preempted else _RESULTS.get(row.status, "open")
            totals[result] = totals.get(result, 0) + row.number
        return totals

    def _latest(self, condition: ColumnElement[bool]) -> Any:
        query = (
            select(JobRow.status, JobRow.error, JobRow.finished_at, JobRow.settings, JobRow.metrics)
            .where(condition)
            .order_by(JobRow.created_at.desc())
            .limit(1)
        )
        return self._connection.execute(query).first()

    def _count(self, query: Select[int]) -> int:
        return self._connection.execute(query).scalar_one()


#: Status of a job that has ended → result. A job that was abandoned has failed.
_RESULTS: Final = {
    JobStatus.SUCCEEDED.value: "succeeded",
    JobStatus.FAILED.value: "failed",
    JobStatus.DEAD.value: "failed",
    JobStatus.CANCELLED.value: "cancelled",
}


def _next_seed(settings: dict[str, Any], metrics: dict[str, Any]) -> int:
    """Return the seed after this renewal: the next one if the quality check failed."""
    return int(settings.get("seed", 0)) + bool(metrics.get("quality_failed"))
