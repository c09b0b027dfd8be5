"""Idempotency keys of deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from app.domain.requests import IdempotencyEntry
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import IdempotencyRow

if TYPE_CHECKING:
    from collections.abc import Sequence


class IdempotencyRepository(Repository):
    """Idempotency keys, stored as keyed hashes."""

    def find(self, key_hash: str) -> IdempotencyEntry | None:
        row = self._connection.execute(
            select(
                IdempotencyRow.body_hash, IdempotencyRow.options_hash, IdempotencyRow.request_id
            ).where(IdempotencyRow.key_hash == key_hash)
        ).first()
        return None if row is None else IdempotencyEntry(**row._asdict())

    def add(self, key_hash: str, entry: IdempotencyEntry) -> None:
        self._connection.execute(
            insert(IdempotencyRow).values(
                key_hash=key_hash,
                body_hash=entry.body_hash,
                options_hash=entry.options_hash,
                request_id=entry.request_id,
                created_at=db_now(),
            )
        )

    def forget_bodies(self, request_ids: Sequence[str]) -> None:
        """Empty the body hashes, which are of the subjects, of completed requests."""
        self._connection.execute(
            update(IdempotencyRow)
            .where(IdempotencyRow.request_id.in_(request_ids))
            .values(body_hash="")
        )

    def prune(self, older_than_seconds: float) -> None:
        over = db_now() - older_than_seconds
        self._connection.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < over))
