"""Owed erasures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from app.domain.scrubs import OwedScrub
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import ScrubRow

if TYPE_CHECKING:
    from sqlalchemy import Select


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

    def open_ones(self, *, host: str | None = None, kind: str | None = None) -> list[OwedScrub]:
        """Return the open erasures, oldest first; those of one host or of one kind if given."""
        query = _open()
        if host is not None:
            query = query.where(ScrubRow.host == host)
        if kind is not None:
            query = query.where(ScrubRow.kind == kind)
        return self._all(query)

    def open_of_job(self, job_id: str) -> list[OwedScrub]:
        return self._all(_open().where(ScrubRow.job_id == job_id))

    def record_attempt(self, scrub_id: int, error: str | None) -> None:
        """Count an attempt that left the erasure open, and the reason, without personal data."""
        self._connection.execute(
            update(ScrubRow)
            .where(ScrubRow.id == scrub_id, ScrubRow.closed_at.is_(None))
            .values(attempts=ScrubRow.attempts + 1, error=error)
        )

    def record_place(self, scrub_id: int, path: str) -> None:
        """Record how far an owed certificate has been issued, as the id of the last request."""
        self._connection.execute(update(ScrubRow).where(ScrubRow.id == scrub_id).values(path=path))

    def close(self, scrub_id: int) -> None:
        """Close the erasure. A second call keeps the first time."""
        self._connection.execute(
            update(ScrubRow)
            .where(ScrubRow.id == scrub_id, ScrubRow.closed_at.is_(None))
            .values(closed_at=db_now(), error=None)
        )

    def _all(self, query: Select[Any]) -> list[OwedScrub]:
        return [OwedScrub(**row) for row in self._connection.execute(query).mappings()]


def _open() -> Select[Any]:
    return select(ScrubRow.__table__).where(ScrubRow.closed_at.is_(None)).order_by(ScrubRow.id)
