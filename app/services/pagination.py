"""Paginated lists of requests, jobs and releases, newest first.

A cursor is the id of the last entry of a page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from app.domain.errors import InvalidInputError
from app.domain.requests import EVERY_REQUEST, RequestFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Job
    from app.domain.releases import Release
    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork

MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
_CURSOR: Final = re.compile(r"(req|job|rel)_[0-9a-f]{24,32}")


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list. `next_cursor` is None on the last page."""

    items: list[T]
    next_cursor: str | None


def list_requests(
    uow: UnitOfWork,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    matching: RequestFilter = EVERY_REQUEST,
) -> Page[ForgetRequest]:
    """Return one page of the deletion requests that match the filter."""

    def fetch(limit: int, cursor: str | None) -> list[ForgetRequest]:
        return uow.requests.page(limit, cursor, matching)

    return _page(fetch, "req", limit, cursor)


def list_jobs(uow: UnitOfWork, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Job]:
    """Return one page of jobs."""
    return _page(uow.jobs.page, "job", limit, cursor)


def list_releases(
    uow: UnitOfWork, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Release]:
    """Return one page of releases."""
    return _page(uow.releases.page, "rel", limit, cursor)


def check_limit(limit: int) -> None:
    """Raise InvalidInputError for a page size out of range."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"limit is {limit}, but must be between 1 and {MAX_LIMIT}.")


def invalid_cursor() -> InvalidInputError:
    """Return the error for a cursor that no page has returned."""
    return InvalidInputError("cursor must be the next_cursor of an earlier page.")


def _page(
    fetch: Callable[[int, str | None], list[T]], prefix: str, limit: int, cursor: str | None
) -> Page[T]:
    check_limit(limit)
    if cursor is not None:
        match = _CURSOR.fullmatch(cursor)
        if match is None or match.group(1) != prefix:
            raise invalid_cursor()
    rows = fetch(limit + 1, cursor)
    items = rows[:limit]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)
