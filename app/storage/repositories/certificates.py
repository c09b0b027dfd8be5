"""Signed certificates of deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from app.domain.certificates import Certificate, CertificateKind
from app.storage.repositories.base import Repository
from app.storage.tables import CertificateRow, RequestRow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


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
        certificates = [Certificate(**row) for row in rows.mappings()]
        if certificates and certificates[0].number == 1:
            return certificates
        return self._of_earlier_worker(request_id) + certificates

    def _of_earlier_worker(self, request_id: str) -> list[Certificate]:
        """Return the certificate that a worker of the previous version stored in the request."""
        rows = self._connection.execute(
            select(RequestRow.certificate, RequestRow.completed_at).where(
                RequestRow.id == request_id, RequestRow.completed_at.is_not(None)
            )
        )
        return [
            Certificate(
                request_id=request_id,
                number=1,
                kind=CertificateKind.DELETION,
                envelope=row.certificate,
                created_at=row.completed_at,
            )
            for row in rows
            if row.certificate is not None
        ]
