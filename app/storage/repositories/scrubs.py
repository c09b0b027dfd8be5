"""Owed erasures."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from app.domain.scrubs import OwedScrub
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import ScrubRow


class ScrubRepository(Repository):
    """Erasures that are owed, by the database's clock."""

    def owe(
        self,
        kind: str,
        *,
        job_id: str | None,
        host: str | None = None,
        path: str | None = None,
        transaction_id: int | None = None,
        error: str | None = None,
    ) -> int:
        """Record an owed erasure and return its id."""
        return self._connection.execute(
            insert(ScrubRow)
            .values(
                kind=kind,
                job_id=job_id,
                host=host,
                path=path,
                transaction_id=transaction_id,
                error=error,
                created_at=db_now(),
            )
            .returning(ScrubRow.id)
        ).scalar_one()

    def open_of_job(self, job_id: str) -> list[OwedScrub]:
        rows = self._connection.execute(
            select(ScrubRow.__table__)
            .where(ScrubRow.job_id == job_id, ScrubRow.closed_at.is_(None))
            .order_by(ScrubRow.id)
        )
        return [OwedScrub(**row) for row in rows.mappings()]

    def close(self, scrub_id: int) -> None:
        self._connection.execute(
            update(ScrubRow).where(ScrubRow.id == scrub_id).values(closed_at=db_now())
        )
