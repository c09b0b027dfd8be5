"""Create the database engine.

SQLite is configured for durability and erasure. PostgreSQL is used through psycopg 3.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url

from app.domain.json_values import plain

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

#: Raised when the server is down, the file is locked for too long, or the pool is exhausted.
UNAVAILABLE: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
#: Execution option from which the SQLite hooks choose the kind of transaction.
_READ_ONLY: Final = "lethe_read_only"
_BUSY_TIMEOUT_SECONDS: Final = 15.0
_PRAGMAS: Final = (
    "journal_mode=WAL",  # Readers do not wait for the writer.
    "foreign_keys=ON",
    "secure_delete=ON",  # Overwrite deleted content with zeros.
    "synchronous=FULL",  # A recorded deletion request survives a power failure.
    f"busy_timeout={int(_BUSY_TIMEOUT_SECONDS * 1000)}",
)


@dataclass(frozen=True, slots=True)
class Database:
    """One connection pool with two engines: for transactions that write, and that only read."""

    write: Engine
    read: Engine

    @property
    def is_sqlite(self) -> bool:
        return self.write.dialect.name == "sqlite"

    def dispose(self) -> None:
        """Close all idle connections."""
        self.write.dispose()


def make_database(url: str) -> Database:
    """Return the database for an SQLAlchemy URL. The first use connects."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql(parsed)
    raise ValueError(
        f"the database {parsed.get_backend_name()!r} is not supported: use SQLite or PostgreSQL"
    )


def _sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:":
        raise ValueError(
            "SQLite needs a database file, because several connections share the database"
        )
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite would create the file for all users; its -wal and -shm files get the file's mode.
    with contextlib.suppress(OSError):
        path.touch(mode=0o600)
    engine = create_engine(
        url,
        pool_size=16,
        max_overflow=16,
        pool_timeout=_BUSY_TIMEOUT_SECONDS,
        connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        json_serializer=_json,
        hide_parameters=True,  # Parameters contain user ids, and errors are logged.
    )
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return Database(write=engine, read=engine.execution_options(**{_READ_ONLY: True}))


def _on_sqlite_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Switch off the driver's BEGIN, which comes late and is never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    read_only = bool(connection.get_execution_options().get(_READ_ONLY, False))
    if connection.info.get(_READ_ONLY) != read_only:
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
        connection.info[_READ_ONLY] = read_only
    # A deferred writer fails if another transaction writes after its first read.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _json(value: Any) -> str:
    """Serialize a JSON column. PostgreSQL refuses NaN, which metrics may contain."""
    return json.dumps(plain(value), allow_nan=False)


def _postgresql(url: URL) -> Database:
    options: dict[str, Any] = {"connect_timeout": 5, "application_name": "lethe"}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=10,
        max_overflow=10,
        pool_timeout=_BUSY_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        json_serializer=_json,
        hide_parameters=True,  # See SQLite.
        connect_args=options,
    )
    return Database(
        write=engine.execution_options(isolation_level="READ COMMITTED"),
        read=engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
    )
