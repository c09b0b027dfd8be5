"""Signed certificates of deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from app.domain.certificates import Certificate, CertificateKind
from app.storage.repositories.base import Repository, portions
from app.storage.tables import CertificateRow, RequestRow

if TYPE_CHECKING:
    from collections.abc import Iterable


class CertificateRepository(Repository):
    """Certificates, numbered per request. A certificate is never changed or removed."""

    def add(self, certificates: Iterable[Certificate]) -> None:
        names = ("request_id", "number", "kind", "envelope", "created_at")
        rows = [{name: getattr(c, name) for name in names} for c in certificates]
        if rows:
            self._connection.execute(insert(CertificateRow), rows)

    def of_request(self, request_id: str) -> list[Certificate]:
        """Return the certificates of the request, oldest first."""
        return self.of_requests([request_id])[request_id]

    def of_requests(self, request_ids: Iterable[str]) -> dict[str, list[Certificate]]:
        """Return request id → the certificates of the request, oldest first."""
        certificates: dict[str, list[Certificate]] = {}
        for portion in portions(dict.fromkeys(request_ids)):
            certificates |= {request_id: [] for request_id in portion}
            rows = self._connection.execute(
                select(CertificateRow.__table__)
                .where(CertificateRow.request_id.in_(portion))
                .order_by(CertificateRow.number)
            )
            for row in rows.mappings():
                certificates[row["request_id"]].append(Certificate(**row))
        return {
            request_id: own
            if own and own[0].number == 1
            else self._of_earlier_worker(request_id) + own
            for request_id, own in certificates.items()
        }

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
