"""Public keys of the installation's signing keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from app.domain.certificates import SigningKey
from app.storage.repositories.base import Repository
from app.storage.tables import SigningKeyRow

if TYPE_CHECKING:
    from datetime import datetime


class SigningKeyRepository(Repository):
    """Current and retired public keys. A key is never removed, and a retired key stays retired."""

    def all(self) -> list[SigningKey]:
        """Return all keys, oldest first."""
        rows = self._connection.execute(
            select(SigningKeyRow.__table__).order_by(SigningKeyRow.valid_from, SigningKeyRow.key_id)
        )
        return [SigningKey(**row) for row in rows.mappings()]

    def get(self, key_id: str) -> SigningKey | None:
        return next((key for key in self.all() if key.key_id == key_id), None)

    def add(self, key: SigningKey) -> None:
        self._connection.execute(
            insert(SigningKeyRow).values(
                key_id=key.key_id,
                public_pem=key.public_pem,
                valid_from=key.valid_from,
                retired_at=key.retired_at,
            )
        )

    def retire_current(self, retired_at: datetime) -> None:
        """Retire the current key, if there is one."""
        self._connection.execute(
            update(SigningKeyRow)
            .where(SigningKeyRow.retired_at.is_(None))
            .values(retired_at=retired_at)
        )
