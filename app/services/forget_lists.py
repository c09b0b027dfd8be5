"""Record a list of users to delete, in chunks, with one outcome per row.

A list is recorded by the call that sends it: the ids are stored nowhere but in the requests. Each
chunk is one transaction with one entry of the erasure ledger, so a list that is interrupted loses
no request that was recorded, and a repeated call continues after the last chunk.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    LedgerAheadError,
    UnavailableError,
)
from app.domain.forget_lists import ForgetList, InvalidRow
from app.domain.identifiers import new_id
from app.domain.requests import UNATTRIBUTED, Attribution, Scope, Subject
from app.services.forget_many import HashedUser, record_users
from app.services.validation import check_no_user_id, normal_attribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

#: Rows per transaction. Other writers wait for a chunk, see docs/decisions/0027-bulk-lists.md.
CHUNK: Final = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCommand:
    """The caller's input: user ids and invalid rows, and what applies to all rows."""

    rows: Sequence[str | InvalidRow]
    suppress_unknown: bool = False
    attribution: Attribution = UNATTRIBUTED


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRecorder:
    """Records lists through units of work of its own."""

    factory: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    settings: Settings
    #: Called after each chunk.
    on_chunk: Callable[[], object]
    #: Whether the process is stopping, asked before each chunk.
    is_stopping: Callable[[], bool]
    rest: Callable[[float], object] = time.sleep

    def record(self, command: ListCommand, key: str | None = None) -> tuple[ForgetList, bool]:
        """Record all rows that have no outcome yet.

        Return the list, and whether this call recorded rows: a repeated key returns the earlier
        list. Raises InvalidInputError for an empty list and for personal data in the attribution,
        and IdempotencyConflictError for a key that was used with another list; then nothing is
        recorded. Raises UnavailableError before the next chunk if the process is stopping.
        """
        if not command.rows:
            raise InvalidInputError("The list has no rows. Give at least one user id.")
        attribution = self._attribution(command)
        forget_list = self._open(command, attribution, key)
        recorded_any = forget_list.done < forget_list.rows
        while forget_list.done < forget_list.rows:
            if self.is_stopping():
                raise UnavailableError(
                    "The service is stopping, so the list may be recorded in part. Send the list "
                    "again with the same Idempotency-Key."
                )
            started = time.perf_counter()
            try:
                forget_list = self._record_chunk(forget_list, command, attribution)
            except LedgerAheadError:
                # The unit of work has reconciled the database with the ledger meanwhile.
                forget_list = self._record_chunk(forget_list, command, attribution)
            self.on_chunk()
            if self.factory.database.is_sqlite and forget_list.done < forget_list.rows:
                # SQLite has no queue of writers: without a rest, others could wait for long.
                self.rest(time.perf_counter() - started)
        return forget_list, recorded_any

    def _attribution(self, command: ListCommand) -> Attribution:
        """Return the attribution with normal texts; no text may be an id of the list."""
        attribution = normal_attribution(command.attribution, Subject(scope=Scope.USER))
        check_no_user_id(attribution, self._valid_ids(command))
        return attribution

    def _valid_ids(self, command: ListCommand) -> Iterator[str]:
        for row in command.rows:
            if not isinstance(row, InvalidRow):
                with suppress(InvalidInputError):
                    yield self.pseudonyms.user_id(row)

    def _open(self, command: ListCommand, attribution: Attribution, key: str | None) -> ForgetList:
        """Return the list of this key, or a new list."""
        content_hash = key_hash = None
        if key is not None:
            key_hash = self.pseudonyms.opaque("list-idempotency-key", key)
            content_hash = self._content_hash(command, attribution)
        with self.factory() as uow:
            uow.state.lock()
            earlier = None if key_hash is None else uow.forget_lists.with_key(key_hash)
            if earlier is not None:
                if earlier.content_hash != content_hash:
                    raise IdempotencyConflictError
                return earlier
            forget_list = ForgetList(
                id=new_id("bulk"),
                created_at=uow.state.now(),
                rows=len(command.rows),
                key_hash=key_hash,
                content_hash=content_hash,
            )
            uow.forget_lists.add(forget_list)
            return forget_list

    def _record_chunk(
        self, forget_list: ForgetList, command: ListCommand, attribution: Attribution
    ) -> ForgetList:
        """Record the next rows, unless another call with the same key has; return the list."""
        start = forget_list.done
        rows = [
            row if isinstance(row, InvalidRow) else HashedUser.of(self.pseudonyms, row)
            for row in command.rows[start : start + CHUNK]
        ]
        with self.factory() as uow:
            uow.state.lock()
            current = uow.forget_lists.get(forget_list.id)
            if current.done != start:
                return current
            results = record_users(
                uow,
                self.pseudonyms,
                self.settings,
                rows,
                attribution,
                suppress_unknown=command.suppress_unknown,
            )
            uow.forget_lists.add_results(current.id, start + 1, results, uow.state.now())
            return uow.forget_lists.get(current.id)

    def _content_hash(self, command: ListCommand, attribution: Attribution) -> str:
        """Return a keyed hash of the list and its options, in the order of the rows."""
        rows = [None if isinstance(row, InvalidRow) else row for row in command.rows]
        texts = [attribution.requested_by, attribution.reason, attribution.reference]
        content = json.dumps([rows, command.suppress_unknown, *texts])
        return self.pseudonyms.opaque("list", content)
