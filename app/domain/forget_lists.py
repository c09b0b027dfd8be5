"""Deletion lists: many users in one call, with one outcome per row of the list."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class RowOutcome(StrEnum):
    """What was done about one row of a list."""

    #: A request was recorded for a user with data.
    ACCEPTED = "accepted"
    #: An earlier request, or an earlier row of the list, deletes the user already.
    COVERED = "covered"
    #: No data is stored for the user, and nothing was recorded.
    NOT_FOUND = "not_found"
    #: A request was recorded for a user without data, so that later data is refused.
    SUPPRESSED = "suppressed"
    #: The row has no valid user id.
    INVALID = "invalid"


class ListStatus(StrEnum):
    """Whether every row of a list has its outcome."""

    RECORDING = "recording"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row of a list without a valid user id. The detail never quotes the row."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """The outcome of a row, and the request that deletes the row's user, if there is one."""

    outcome: RowOutcome
    request_id: str | None = None
    #: Why the row is invalid.
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedResult:
    """The result of one row; the first row of a list has the number 1."""

    row: int
    result: RowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetList:
    """A list of users to delete. The users are in the requests, and nowhere in the list."""

    id: str
    created_at: datetime
    #: Number of rows, and of rows that have an outcome.
    rows: int
    done: int = 0
    recorded_at: datetime | None = None
    #: Keyed hashes of the idempotency key and of the list; None without a key, or after 7 days.
    key_hash: str | None = None
    content_hash: str | None = None

    @property
    def status(self) -> ListStatus:
        return ListStatus.RECORDING if self.recorded_at is None else ListStatus.RECORDED
