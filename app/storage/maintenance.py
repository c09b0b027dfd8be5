"""Erase the remains of deleted rows from the database files."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final

from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import UNAVAILABLE

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.storage.engine import Database

#: The tables with plain ids of users and items.
_PERSONAL_TABLES: Final = (
    "users",
    "items",
    "interactions",
    "requests",
    "data_changes",
    "idempotency_keys",
)
_PAUSE_SECONDS: Final = 0.05


def erase_remains(database: Database, *, wait_seconds: float = 10.0) -> bool:
    """Erase the remains of deleted rows. Return False if readers block this for `wait_seconds`.

    SQLite overwrites deleted content by itself (secure_delete). The write-ahead log still has old
    content and is checkpointed and truncated. PostgreSQL vacuums the tables. Raises
    DatabaseUnavailableError.
    """
    try:
        if database.is_sqlite:
            return _truncate_wal(database.write, wait_seconds)
        _vacuum(database.write)
    except UNAVAILABLE as error:
        raise DatabaseUnavailableError from error
    return True


def _truncate_wal(engine: Engine, wait_seconds: float) -> bool:
    deadline = time.monotonic() + wait_seconds
    while True:
        if _try_truncate(engine):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def _try_truncate(engine: Engine) -> bool:
    """Checkpoint once through the driver's connection, outside any transaction."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        try:
            # Return at once if a reader is active; the caller's loop waits.
            cursor.execute("PRAGMA busy_timeout=0")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            row = cursor.fetchone()
        except sqlite3.OperationalError:
            # The driver reports some temporary locks as an error.
            return False
        finally:
            cursor.close()
        return row is not None and row[0] == 0
    finally:
        # Do not return the connection to the pool, because its timeout is changed.
        connection.invalidate()
        connection.close()


def _vacuum(engine: Engine) -> None:
    with engine.connect() as pooled:
        # VACUUM refuses to run inside a transaction.
        connection = pooled.execution_options(isolation_level="AUTOCOMMIT")
        for table in _PERSONAL_TABLES:
            connection.exec_driver_sql(f"VACUUM {table}")
