"""The SQL conditions and the order of a list of deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, false, or_

from app.domain.requests import OPEN_STATUSES, Assurance
from app.storage.clock import db_now
from app.storage.tables import RequestRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement

    from app.domain.requests import RequestFilter

_OPEN: Final = RequestRow.status.in_(sorted(status.value for status in OPEN_STATUSES))
_APPROXIMATE: Final = RequestRow.assurance == Assurance.APPROXIMATE.value


def conditions(
    matching: RequestFilter, suppressing_ids: Sequence[str]
) -> list[ColumnElement[bool]]:
    """Return the conditions of the filter.

    `suppressing_ids` are the requests that suppress the user of the filter. They include requests
    without `user_hash`, and those from before the id rule, which have the hash of another spelling.
    """
    every: list[ColumnElement[bool]] = []
    if matching.statuses:
        every.append(RequestRow.status.in_(sorted(status.value for status in matching.statuses)))
    if matching.assurance is not None:
        every.append(RequestRow.assurance == matching.assurance.value)
    if matching.requested_by is not None:
        every.append(RequestRow.requested_by == matching.requested_by)
    if matching.reference is not None:
        every.append(RequestRow.reference == matching.reference)
    if matching.created_after is not None:
        every.append(RequestRow.created_at > matching.created_after)
    if matching.created_before is not None:
        every.append(RequestRow.created_at < matching.created_before)
    if matching.user_hashes is not None:
        named = false() if matching.user_id is None else RequestRow.user_id == matching.user_id
        of_user = RequestRow.user_hash.in_(matching.user_hashes)
        every.append(or_(of_user, named, RequestRow.id.in_(suppressing_ids)))
    if matching.due_before is not None:
        every.append(_due_before(matching.due_before, matching))
    if matching.overdue is not None:
        due = _due_before if matching.overdue else _not_due
        every.append(due(db_now(), matching))
    return every


def order(matching: RequestFilter) -> ColumnElement[str]:
    """Return the sort key of the list: newest first."""
    if matching.created_after is None and matching.created_before is None:
        return RequestRow.id.desc()
    # To save the sorting, SQLite would follow the index of the ids, and so read every request.
    # Sorted by an expression, SQLite follows the index of the times.
    return (RequestRow.id + "").desc()


def _due_before(time: Any, matching: RequestFilter) -> ColumnElement[bool]:
    """Return the condition that a promise of the request is not kept and ends before the time."""
    if not matching.exact_is_due:
        return and_(_OPEN, RequestRow.due_at < time)
    exact_due = RequestRow.exact_due_at < time
    return or_(and_(_OPEN, or_(RequestRow.due_at < time, exact_due)), and_(_APPROXIMATE, exact_due))


def _not_due(time: Any, matching: RequestFilter) -> ColumnElement[bool]:
    """Return the opposite of `_due_before`; times that are not recorded are not due."""
    completion = or_(~_OPEN, RequestRow.due_at >= time)
    if not matching.exact_is_due:
        return completion
    later = or_(RequestRow.exact_due_at.is_(None), RequestRow.exact_due_at >= time)
    return and_(completion, or_(and_(~_OPEN, ~_APPROXIMATE), later))
