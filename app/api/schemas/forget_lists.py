"""JSON of deletion lists and of the outcomes of their rows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import Field

from app.api.schemas.common import Answer
from app.domain.forget_lists import ListStatus, RowOutcome

if TYPE_CHECKING:
    from app.domain.forget_lists import ForgetList, NumberedResult
    from app.storage.unit_of_work import UnitOfWork


class RowCounts(Answer):
    """Number of rows of each outcome."""

    accepted: int
    covered: int
    not_found: int
    suppressed: int
    invalid: int


class ForgetListAnswer(Answer):
    """Deletion list. It contains no user id.

    `recording`: the call that sent the list is under way, or was interrupted. The same call with
    the same `Idempotency-Key` continues it.
    """

    id: str
    status: ListStatus
    created_at: datetime
    recorded_at: datetime | None = Field(
        description="The time at which the last row got its outcome."
    )
    rows: int
    counts: RowCounts

    @classmethod
    def read(cls, uow: UnitOfWork, forget_list: ForgetList) -> Self:
        """Return the list with its counts."""
        counts = uow.forget_lists.counts(forget_list.id)
        return cls(
            id=forget_list.id,
            status=forget_list.status,
            created_at=forget_list.created_at,
            recorded_at=forget_list.recorded_at,
            rows=forget_list.rows,
            counts=RowCounts(**{outcome.value: count for outcome, count in counts.items()}),
        )


class RowResultAnswer(Answer):
    """Outcome of one row of a list.

    `accepted`: a request was recorded. `covered`: an earlier request or row deletes the user
    already. `not_found`: no data is stored for the user. `suppressed`: a request was recorded for a
    user without data. `invalid`: the row has no valid id.
    """

    row: int = Field(description="Number of the row, from 1, without header and blank lines.")
    outcome: RowOutcome
    request_id: str | None = Field(description="The request that deletes the user.")
    detail: str | None = Field(description="Why the row is invalid.")

    @classmethod
    def of(cls, numbered: NumberedResult) -> Self:
        result = numbered.result
        return cls(
            row=numbered.row,
            outcome=result.outcome,
            request_id=result.request_id,
            detail=result.detail,
        )


class RowResultPage(Answer):
    """Outcomes of rows in the order of the list; `next_cursor` is null on the last page."""

    items: list[RowResultAnswer]
    next_cursor: str | None
