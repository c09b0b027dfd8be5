"""The global data version, the change log, and the clock of the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    case,
    delete,
    distinct,
    func,
    select,
    update,
)

from app.domain.catalog import (
    CATALOG_KINDS,
    SUPPRESSION_KINDS,
    DataChange,
    LoggedRange,
    PendingChanges,
)
from app.domain.ledger import LedgerHead
from app.storage.clock import db_now
from app.storage.repositories.base import Repository, portions
from app.storage.repositories.standing import read_standing
from app.storage.tables import DataChangeRow, StateRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement

    from app.domain.standing import Standing


class StateRepository(Repository):
    """The single row of the table `state`, which the migration creates, and the change log."""

    def lock(self) -> None:
        """Block all other changes of data until this transaction ends.

        Take the lock before the first read on which a write depends.
        """
        # SQLite ignores FOR UPDATE, but BEGIN IMMEDIATE already allows a single writer.
        self._connection.execute(select(StateRow.id).with_for_update()).all()

    def allow_long(self) -> None:
        """Remove the limits on statements and pauses of this transaction.

        For rare work on all data that must not be interrupted, such as a restore.
        """
        self._allow_long()

    def prefer_indexes(self) -> None:
        """Let the following reads of this transaction use indexes wherever there are any.

        PostgreSQL knows nothing about a table that was filled since its last ANALYZE, and would
        read the whole table for a few hundred keys.
        """
        if self._is_postgresql:
            self._connection.exec_driver_sql("SET LOCAL enable_seqscan = off")

    def data_version(self) -> int:
        return self._connection.execute(select(StateRow.data_version)).scalar_one()

    def drawn_times(self) -> str | None:
        """Return how the newest import without timestamps got times: random, order or None."""
        return self._connection.execute(select(StateRow.drawn_times)).scalar_one()

    def record_drawn_times(self, choice: str) -> None:
        """Record how an import without timestamps got times."""
        self._connection.execute(update(StateRow).values(drawn_times=choice))

    def standing(
        self,
        subject_hashes: Iterable[str],
        since: int | None = None,
        user_ids: Iterable[str] = (),
    ) -> Standing:
        """Return the state, the suppressed hashes and these users, read in one statement.

        The changes are those after version `since`; without it, there are none.
        """
        return read_standing(self._connection, subject_hashes, since, user_ids)

    def bump(self, kind: str, user_ids: Iterable[str | None] = (None,)) -> int:
        """Log one change per user id, raise the data version by their number, and return it."""
        users = list(user_ids)
        version = self._connection.execute(
            update(StateRow)
            .values(data_version=StateRow.data_version + len(users))
            .returning(StateRow.data_version)
        ).scalar_one()
        first = version - len(users) + 1
        entries = [
            {"version": first + offset, "kind": kind, "user_id": user_id}
            for offset, user_id in enumerate(users)
        ]
        self._insert_all(DataChangeRow, entries)
        return version

    def raise_above(self, version: int) -> int | None:
        """Raise the data version above this one; return the new version, or None if it is above."""
        return self._connection.execute(
            update(StateRow)
            .where(StateRow.data_version <= version)
            .values(data_version=version + 1)
            .returning(StateRow.data_version)
        ).scalar_one_or_none()

    def changes_since(self, version: int, limit: int | None = None) -> list[DataChange]:
        """Return the log entries after this version, oldest first, at most `limit` of them."""
        return self._changes(DataChangeRow.version > version, limit)

    def urgent_changes(self, version: int) -> list[DataChange]:
        """Return deletions, cancellations and changes of the catalog after this version.

        The oldest comes first.

        The entry that follows the version is contained whatever its kind: if it is missing, the
        log is incomplete.
        """
        is_urgent = DataChangeRow.kind.in_(sorted(SUPPRESSION_KINDS | CATALOG_KINDS))
        return self._changes(
            (DataChangeRow.version > version) & (is_urgent | (DataChangeRow.version == version + 1))
        )

    def pending_changes(self, version: int, kinds: Iterable[str]) -> PendingChanges:
        """Count the log entries after this version; `kinds` are the kinds that concern users."""
        concerns_users = DataChangeRow.kind.in_(sorted(kinds))
        is_unnamed = concerns_users & DataChangeRow.user_id.is_(None)
        row = self._connection.execute(
            select(
                func.count(DataChangeRow.version).label("entries"),
                func.count(distinct(case((concerns_users, DataChangeRow.user_id)))).label("users"),
                func.count(case((is_unnamed, 1))).label("unnamed"),
            ).where(DataChangeRow.version > version)
        ).one()
        return PendingChanges(entries=row.entries, users=row.users, unnamed=row.unnamed)

    def _changes(self, where: ColumnElement[bool], limit: int | None = None) -> list[DataChange]:
        rows = self._connection.execute(
            select(DataChangeRow.version, DataChangeRow.kind, DataChangeRow.user_id)
            .where(where)
            .order_by(DataChangeRow.version)
            .limit(limit)
        )
        return [DataChange(version=r.version, kind=r.kind, user_id=r.user_id) for r in rows]

    def newest_changes(self, version: int) -> dict[str, LoggedRange]:
        """Return kind → range of the log entries after this version, only kinds with entries."""
        rows = self._connection.execute(
            select(
                DataChangeRow.kind,
                func.min(DataChangeRow.version).label("first"),
                func.max(DataChangeRow.version).label("last"),
            )
            .where(DataChangeRow.version > version)
            .group_by(DataChangeRow.kind)
        )
        return {row.kind: LoggedRange(first=row.first, last=row.last) for row in rows}

    def prune_log(self, version: int, limit: int) -> int:
        """Delete up to `limit` entries up to this version, the oldest first; return their number.

        A reader that needs a deleted entry notices that the versions have a gap.
        """
        oldest = (
            select(DataChangeRow.version)
            .where(DataChangeRow.version <= version)
            .order_by(DataChangeRow.version)
            .limit(limit)
        )
        return self._changed(delete(DataChangeRow).where(DataChangeRow.version.in_(oldest)))

    def forget_user_in_log(self, user_id: str) -> int:
        """Clear the user id in the user's log entries, and return their number."""
        return self.forget_users_in_log([user_id])

    def forget_users_in_log(self, user_ids: Iterable[str]) -> int:
        """Clear the ids of these users in the log, and return the number of changed entries."""
        return sum(
            self._changed(
                update(DataChangeRow).where(DataChangeRow.user_id.in_(portion)).values(user_id=None)
            )
            for portion in portions(user_ids)
        )

    def ledger_head(self) -> LedgerHead | None:
        """Return the newest ledger entry whose transaction committed; None before the first."""
        row = self._connection.execute(select(StateRow.ledger_number, StateRow.ledger_digest)).one()
        if row.ledger_number is None:
            return None
        return LedgerHead(number=row.ledger_number, digest=row.ledger_digest)

    def write_ledger_head(self, head: LedgerHead) -> None:
        self._connection.execute(
            update(StateRow).values(ledger_number=head.number, ledger_digest=head.digest)
        )

    def clear_ledger_head(self) -> None:
        """Forget the ledger, so that the next process that opens the database begins a new one."""
        self._connection.execute(
            update(StateRow).values(ledger_number=None, ledger_digest=None, ledger_checkpoint=None)
        )

    def ledger_checkpoint(self) -> int:
        """Return the number of the newest entry that a signed checkpoint covers; 0 for none."""
        number = self._connection.execute(select(StateRow.ledger_checkpoint)).scalar_one()
        return number or 0

    def write_ledger_checkpoint(self, number: int) -> None:
        self._connection.execute(update(StateRow).values(ledger_checkpoint=number))

    def restoring(self) -> int:
        """Return the number of open deletions that are repeated after a restore."""
        return self._connection.execute(select(StateRow.restoring)).scalar_one()

    def write_restoring(self, number: int) -> None:
        self._connection.execute(update(StateRow).values(restoring=number))

    def transaction_id(self) -> int | None:
        """Return PostgreSQL's id of this transaction, or None on SQLite, which has no such ids."""
        if not self._is_postgresql:
            return None
        query = "SELECT pg_current_xact_id()::text::bigint"
        return int(self._connection.exec_driver_sql(query).scalar_one())

    def key_fingerprint(self, candidate: str) -> str:
        """Return the stored fingerprint of the hash key; store `candidate` if there is none."""
        self._connection.execute(
            update(StateRow)
            .where(StateRow.key_fingerprint.is_(None))
            .values(key_fingerprint=candidate)
        )
        fingerprint = self._connection.execute(
            select(func.coalesce(StateRow.key_fingerprint, candidate))
        ).scalar_one()
        return str(fingerprint)

    def stored_fingerprint(self) -> str | None:
        """Return the stored fingerprint of the hash key; None if no process has stored one."""
        return self._connection.execute(select(StateRow.key_fingerprint)).scalar_one()

    def now(self) -> datetime:
        """Return the time of the database's clock."""
        seconds = self._connection.execute(select(db_now())).scalar_one()
        return datetime.fromtimestamp(seconds, UTC)
