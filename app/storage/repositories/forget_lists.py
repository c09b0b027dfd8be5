"""Deletion lists and the outcomes of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from app.domain.errors import UnknownListError
from app.domain.forget_lists import ForgetList, NumberedResult, RowOutcome, RowResult
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import ForgetListResultRow, ForgetListRow

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement

_FIELDS = ("id", "created_at", "rows", "done", "recorded_at", "key_hash", "content_hash")


class ForgetListRepository(Repository):
    """Lists of users to delete, each row named by its number."""

    def add(self, forget_list: ForgetList) -> None:
        values = {name: getattr(forget_list, name) for name in _FIELDS}
        self._connection.execute(insert(ForgetListRow).values(**values))

    def get(self, list_id: str) -> ForgetList:
        forget_list = self._find(ForgetListRow.id == list_id)
        if forget_list is None:
            raise UnknownListError(list_id=list_id)
        return forget_list

    def with_key(self, key_hash: str) -> ForgetList | None:
        """Return the list that was recorded under this idempotency key, or None."""
        return self._find(ForgetListRow.key_hash == key_hash)

    def add_results(
        self, list_id: str, first_row: int, results: Sequence[RowResult], at: datetime
    ) -> None:
        """Add the results of consecutive rows, and count the rows as done.

        `at` is the time at which the list is recorded, if these are its last rows.
        """
        self._insert_all(
            ForgetListResultRow,
            [
                {
                    "list_id": list_id,
                    "row": first_row + offset,
                    "outcome": result.outcome.value,
                    "request_id": result.request_id,
                    "detail": result.detail,
                }
                for offset, result in enumerate(results)
            ],
        )
        done = first_row + len(results) - 1
        self._connection.execute(
            update(ForgetListRow).where(ForgetListRow.id == list_id).values(done=done)
        )
        self._connection.execute(
            update(ForgetListRow)
            .where(ForgetListRow.id == list_id, ForgetListRow.rows == done)
            .values(recorded_at=at)
        )

    def counts(self, list_id: str) -> dict[RowOutcome, int]:
        """Return the number of rows of each outcome, also of outcomes without rows."""
        rows = self._connection.execute(
            select(ForgetListResultRow.outcome, func.count())
            .where(ForgetListResultRow.list_id == list_id)
            .group_by(ForgetListResultRow.outcome)
        )
        numbers = {RowOutcome(outcome): count for outcome, count in rows}
        return {outcome: numbers.get(outcome, 0) for outcome in RowOutcome}

    def results(
        self, list_id: str, after: int, limit: int, outcomes: Collection[RowOutcome] = ()
    ) -> list[NumberedResult]:
        """Return up to `limit` results of rows after the row number `after`, in order.

        `outcomes` selects results; without outcomes, every result is returned.
        """
        query = select(
            ForgetListResultRow.row,
            ForgetListResultRow.outcome,
            ForgetListResultRow.request_id,
            ForgetListResultRow.detail,
        ).where(ForgetListResultRow.list_id == list_id, ForgetListResultRow.row > after)
        if outcomes:
            query = query.where(ForgetListResultRow.outcome.in_([o.value for o in outcomes]))
        rows = self._connection.execute(query.order_by(ForgetListResultRow.row).limit(limit))
        return [
            NumberedResult(
                row=number,
                result=RowResult(outcome=RowOutcome(outcome), request_id=request_id, detail=detail),
            )
            for number, outcome, request_id, detail in rows
        ]

    def forget_keys(self, older_than_seconds: float) -> None:
        """Clear idempotency keys, and the hashes of the lists that were compared with them."""
        over = db_now() - older_than_seconds
        self._connection.execute(
            update(ForgetListRow)
            .where(ForgetListRow.created_at < over, ForgetListRow.key_hash.is_not(None))
            .values(key_hash=None, content_hash=None)
        )

    def _find(self, condition: ColumnElement[bool]) -> ForgetList | None:
        columns = [getattr(ForgetListRow, name) for name in _FIELDS]
        row = self._connection.execute(select(*columns).where(condition)).first()
        return None if row is None else ForgetList(**row._asdict())
