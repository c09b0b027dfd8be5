"""Erase the remains of deleted rows from the database files."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, cast

from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import UNAVAILABLE

if TYPE_CHECKING:
    import psycopg
    from psycopg.errors import Diagnostic
    from sqlalchemy import Connection, Engine, PoolProxiedConnection

    from app.storage.engine import Database

#: The tables with plain ids of users and items, now or in earlier versions.
_PERSONAL_TABLES: Final = (
    "users",
    "items",
    "interactions",
    "requests",
    "data_changes",
    "idempotency_keys",
    "jobs",
)
_PAUSE_SECONDS: Final = 0.05
_WAL_IN_USE: Final = "another connection reads from SQLite's write-ahead log"
_LOCKED: Final = "another connection uses the database"
_TRUNCATE: Final = "PRAGMA wal_checkpoint(TRUNCATE)"
_HIDDEN_SESSIONS: Final = (
    "sessions of other roles are hidden; grant pg_read_all_stats to the role of Lethe"
)
#: The 64-bit id of the next transaction at most. PostgreSQL shows 32 bits of the ids below.
_NEXT_ID: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
#: Everything that keeps VACUUM from removing rows: (description, 32-bit id of the oldest
#: transaction that must stay visible). `catalog_xmin` of replication keeps no rows of these tables.
_HOLDERS: Final = """
SELECT 'a transaction of application "' || application_name || '" (process ' || pid
         || ') is open since ' || date_trunc('second', coalesce(xact_start, backend_start)),
       held.id::text::bigint
FROM pg_stat_activity CROSS JOIN LATERAL (VALUES (backend_xmin), (backend_xid)) AS held (id)
WHERE held.id IS NOT NULL AND pid <> pg_backend_pid()
  AND (datname = current_database() OR datname IS NULL)
UNION ALL
SELECT 'the replication to "' || name || '" needs old rows', xmin::text::bigint
FROM pg_replication_slots AS replication (name) WHERE xmin IS NOT NULL
UNION ALL
SELECT 'a prepared transaction is open since ' || date_trunc('second', prepared),
       transaction::text::bigint
FROM pg_prepared_xacts WHERE database = current_database()
"""
_HIDDEN: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND query = '<insufficient privilege>'
"""


def erase_remains(
    database: Database, *, transaction_id: int | None = None, wait_seconds: float = 10.0
) -> str | None:
    """Erase the remains of deleted rows. Return None, or the reason why they were not erased.

    SQLite overwrites deleted rows by itself (secure_delete), but not copies of rows that splits of
    pages left in unused parts of pages. So the file is rewritten, and the write-ahead log, which
    still has old content, is checkpointed and truncated. PostgreSQL vacuums the tables, which
    removes only rows that no snapshot can read: `transaction_id` is the transaction that deleted
    the rows, None stands for every transaction so far. Wait `wait_seconds` for readers. Raises
    DatabaseUnavailableError.
    """
    try:
        if database.is_sqlite:
            return _rewrite_sqlite(database.write, wait_seconds)
        return _vacuum(database.write, transaction_id, wait_seconds)
    except (*UNAVAILABLE, sqlite3.OperationalError) as error:
        raise DatabaseUnavailableError from error


def _rewrite_sqlite(engine: Engine, wait_seconds: float) -> str | None:
    deadline = time.monotonic() + wait_seconds
    connection = engine.raw_connection()
    try:
        # Statements return at once if a reader or a writer is active; the loop waits.
        connection.cursor().execute("PRAGMA busy_timeout=0")
        connection.cursor().execute("PRAGMA query_only=OFF")
        # A reader makes the first step fail, before the file is rewritten in vain.
        for statement in (_TRUNCATE, "VACUUM", _TRUNCATE):
            while (reason := _run_alone(connection, statement)) is not None:
                if reason not in {_WAL_IN_USE, _LOCKED} or time.monotonic() >= deadline:
                    return reason
                time.sleep(_PAUSE_SECONDS)
        return None
    finally:
        # Do not return the connection to the pool, because its settings are changed.
        connection.invalidate()
        connection.close()


def _run_alone(connection: PoolProxiedConnection, statement: str) -> str | None:
    """Run a statement outside any transaction. Return None, or the reason of its failure."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        row = cursor.fetchone()
    except sqlite3.OperationalError as error:
        # The driver reports some temporary locks as an error.
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return _LOCKED
        return f"SQLite could not rewrite its file ({error.sqlite_errorname})"
    finally:
        cursor.close()
    return _WAL_IN_USE if row is not None and row[0] != 0 else None


def _vacuum(engine: Engine, transaction_id: int | None, wait_seconds: float) -> str | None:
    deadline = time.monotonic() + wait_seconds
    with engine.connect() as pooled:
        # VACUUM refuses to run inside a transaction.
        connection = pooled.execution_options(isolation_level="AUTOCOMMIT")
        newest_id = transaction_id
        if newest_id is None:
            newest_id = _number(connection, _NEXT_ID) - 1
        while (holder := _holder(connection, newest_id)) is not None:
            if time.monotonic() >= deadline:
                return holder
            time.sleep(_PAUSE_SECONDS)
        connection.exec_driver_sql("SET statement_timeout = 0")
        try:
            return _vacuum_tables(connection)
        finally:
            connection.exec_driver_sql("RESET statement_timeout")


def _vacuum_tables(connection: Connection) -> str | None:
    """Vacuum, and return the reason why PostgreSQL skipped a table, or None."""
    warnings: list[str | None] = []

    def collect(notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary)

    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    driver.add_notice_handler(collect)
    try:
        for table in _PERSONAL_TABLES:
            # By default, VACUUM leaves the index entries of few deleted rows, with their ids. With
            # FREEZE, it waits for pages that another process reads at the moment.
            connection.exec_driver_sql(f"VACUUM (FREEZE, INDEX_CLEANUP ON) {table}")
            if warnings:
                return f"VACUUM skipped the table {table}; the role of Lethe must own its tables"
        # Only the owner of the database may do this, and only upgrades need it, so a warning is no
        # failure.
        connection.exec_driver_sql("VACUUM pg_catalog.pg_statistic")
    finally:
        driver.remove_notice_handler(collect)
    return None


def _holder(connection: Connection, transaction_id: int) -> str | None:
    """Return what may still read rows that this transaction deleted, or None."""
    next_id = _number(connection, _NEXT_ID)
    for description, short_id in connection.exec_driver_sql(_HOLDERS):
        # The 32-bit id is within 2**31 of the next id.
        full_id = next_id + (short_id - next_id + 2**31) % 2**32 - 2**31
        if full_id <= transaction_id:
            # The columns of a hidden session are NULL, except for its transaction ids.
            return _HIDDEN_SESSIONS if description is None else str(description)
    return _HIDDEN_SESSIONS if _number(connection, _HIDDEN) else None


def _number(connection: Connection, query: str) -> int:
    return int(connection.exec_driver_sql(query).scalar_one())
