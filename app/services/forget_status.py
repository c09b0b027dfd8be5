"""Where one deletion request stands, and its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.errors import CertificateNotReadyError

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest
    from app.services.ports import UnitOfWork


def forget_status(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Return the request, or raise UnknownRequestError."""
    return uow.requests.get(request_id)


def certificate_of(uow: UnitOfWork, request_id: str) -> dict[str, Any]:
    """Return the signed certificate, or raise CertificateNotReadyError before completion."""
    request = uow.requests.get(request_id)
    if request.certificate is None:
        raise CertificateNotReadyError(status=request.status)
    return request.certificate
