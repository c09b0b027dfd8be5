"""Claims of jobs, and whether files of a claim may be left on the machine that made the claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from app.domain.jobs import JobClaim
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import JobClaimRow

if TYPE_CHECKING:
    from sqlalchemy import Select


class JobClaimRepository(Repository):
    """One row per claim of a job."""

    def add(self, job_id: str, epoch: int, machine: str) -> None:
        """Record a claim, or change nothing if the claim is recorded."""
        self._connection.execute(
            self._insert(JobClaimRow)
            .values(job_id=job_id, epoch=epoch, host=machine, started_at=db_now())
            .on_conflict_do_nothing(index_elements=["job_id", "epoch"])
        )

    def end(self, job_id: str, epoch: int) -> None:
        """Record that the machine has no file and no process of the claim any more."""
        self._connection.execute(
            update(JobClaimRow)
            .where(
                JobClaimRow.job_id == job_id,
                JobClaimRow.epoch == epoch,
                JobClaimRow.ended_at.is_(None),
            )
            .values(ended_at=db_now())
        )

    def unended(self, machine: str | None = None) -> list[JobClaim]:
        """Return the claims of one machine, or of all, that may have files left."""
        query = _claims().where(JobClaimRow.ended_at.is_(None))
        return self._all(query if machine is None else query.where(JobClaimRow.host == machine))

    def of_job(self, job_id: str) -> list[JobClaim]:
        return self._all(_claims().where(JobClaimRow.job_id == job_id))

    def _all(self, query: Select[Any]) -> list[JobClaim]:
        return [
            JobClaim(
                job_id=row.job_id,
                epoch=row.epoch,
                machine=row.host,
                started_at=row.started_at,
                ended_at=row.ended_at,
            )
            for row in self._connection.execute(query)
        ]


def _claims() -> Select[Any]:
    return select(JobClaimRow.__table__).order_by(JobClaimRow.job_id, JobClaimRow.epoch)
