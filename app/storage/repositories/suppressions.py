"""What no input may use, by keyed hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from app.storage.clock import db_now
from app.storage.repositories.base import Repository, portions
from app.storage.tables import SuppressionRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.requests import ForgetRequest

_ACTIVE = SuppressionRow.lifted_at.is_(None)


class SuppressionRepository(Repository):
    """Implements `ports.SuppressionRepository`."""

    def add(self, subject_hashes: Iterable[str], request: ForgetRequest) -> None:
        rows = [
            {
                "subject_hash": subject_hash,
                "request_id": request.id,
                "scope": request.scope.value,
                "created_at": request.created_at,
            }
            for subject_hash in dict.fromkeys(subject_hashes)
        ]
        if rows:
            self._connection.execute(insert(SuppressionRow), rows)

    def lift(self, request_id: str) -> None:
        self._connection.execute(
            delete(SuppressionRow).where(SuppressionRow.request_id == request_id)
        )

    def lift_hash(self, subject_hash: str) -> bool:
        lifted = self._changed(
            update(SuppressionRow)
            .where(SuppressionRow.subject_hash == subject_hash, _ACTIVE)
            .values(lifted_at=db_now())
        )
        return lifted > 0

    def matching(self, subject_hashes: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for portion in portions(dict.fromkeys(subject_hashes)):
            found.update(
                self._connection.execute(
                    select(SuppressionRow.subject_hash).where(
                        SuppressionRow.subject_hash.in_(portion), _ACTIVE
                    )
                ).scalars()
            )
        return found

    def all_hashes(self) -> set[str]:
        return set(
            self._connection.execute(select(SuppressionRow.subject_hash).where(_ACTIVE)).scalars()
        )
