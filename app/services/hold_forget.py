"""Holds a scheduled request back, and lets a held or a dead one go on. Suppression stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ConflictError
from app.domain.requests import RequestStatus
from app.services.wakeups import Topic

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest
    from app.services.ports import UnitOfWork


def hold_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Put a scheduled request on hold, so that no batch takes it."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is RequestStatus.ON_HOLD:
        return request
    return _move(uow, request, RequestStatus.ON_HOLD)


def release_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Return a held request to its schedule, or a dead one, seen by a person, to the next batch."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is RequestStatus.DEAD:
        released = _move(uow, request, RequestStatus.BATCHED)
    else:
        released = _move(uow, request, RequestStatus.SCHEDULED)
    uow.outbox.add(Topic.REQUEST, request_id)
    return released


def _move(uow: UnitOfWork, request: ForgetRequest, status: RequestStatus) -> ForgetRequest:
    failures = 0 if request.status is RequestStatus.DEAD else request.failures
    moved = uow.requests.change_status(request, [request.status], status=status, failures=failures)
    if not moved:
        raise ConflictError("The request has just changed its state. Look again.")
    return uow.requests.get(request.id)
