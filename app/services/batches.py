"""The next batch of deletion requests: which requests, and since when the batch is due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from app.domain.requests import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.requests import ForgetRequest
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


def next_batch(uow: UnitOfWork, settings: Settings) -> list[ForgetRequest]:
    """Lock and return the requests of the batch that is due; an empty list if none is due.

    Requests of one retry group come alone, the group that waited longest first. A request that
    another transaction is canceling is locked there, so this batch leaves the request out.
    """
    for group in uow.requests.ready_groups():
        ready = uow.requests.ready_for_batch(settings.batch_size, group)
        times = [
            (request.status is RequestStatus.BATCHED, request.retry_at or request.cancellable_until)
            for request in ready
        ]
        due_at = _due_at(times, settings)
        if due_at is not None and due_at <= uow.state.now():
            return ready
    return []


def batch_due_at(uow: UnitOfWork, settings: Settings) -> datetime | None:
    """Return the time since which the next batch is due, or None. Nothing is locked."""
    for group in uow.requests.ready_groups():
        due_at = _due_at(uow.requests.ready_times(settings.batch_size, group), settings)
        if due_at is not None and due_at <= uow.state.now():
            return due_at
    return None


def _due_at(times: Sequence[tuple[bool, datetime]], settings: Settings) -> datetime | None:
    """Return the time at which a batch is due; None without a request.

    `times` has for each request whether it is retried, and the time since which it is ready.
    Requests of a failed job do not wait again. Other requests wait from the end of their cancel
    window. A full batch does not wait.
    """
    if not times:
        return None
    wait = timedelta(seconds=settings.batch_seconds)
    first = min(ready_at + (timedelta() if is_retry else wait) for is_retry, ready_at in times)
    if len(times) < settings.batch_size:
        return first
    return min(first, max(ready_at for _, ready_at in times))
