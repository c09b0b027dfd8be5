"""Cancels a deletion request while it is scheduled, and lifts its suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import NotCancellableError
from app.domain.requests import RequestStatus
from app.services.affected import affected_users

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest
    from app.services.ports import UnitOfWork


def cancel_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Cancel the request, or raise NotCancellableError.

    The update is conditional on the status, as is the freezing of a batch: exactly one of the two
    takes the request.
    """
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is not RequestStatus.SCHEDULED or not uow.requests.change_status(
        request, [RequestStatus.SCHEDULED], status=RequestStatus.CANCELLED
    ):
        raise NotCancellableError(status=uow.requests.get(request_id).status)
    uow.suppressions.lift(request_id)
    if request.subject is not None:
        uow.state.bump("cancel", affected_users(uow, request.subject))
    return uow.requests.get(request_id)
