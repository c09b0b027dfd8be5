"""Signed certificates of deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from app.domain.certificates import Certificate
from app.storage.repositories.base import Repository
from app.storage.tables import CertificateRow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.domain.certificates import CertificateKind


class CertificateRepository(Repository):
    """Certificates, numbered per request. A certificate is never changed or removed."""

    def add(
        self,
        request_id: str,
        number: int,
        kind: CertificateKind,
        envelope: Mapping[str, Any],
        created_at: datetime,
    ) -> None:
        self._connection.execute(
            insert(CertificateRow).values(
                request_id=request_id,
                number=number,
                kind=kind.value,
                envelope=dict(envelope),
                created_at=created_at,
            )
        )

    def of_request(self, request_id: str) -> list[Certificate]:
        """Return the certificates of the request, oldest first."""
        rows = self._connection.execute(
            select(CertificateRow.__table__)
            .where(CertificateRow.request_id == request_id)
            .order_by(CertificateRow.number)
        )
        return [Certificate(**row) for row in rows.mappings()]
