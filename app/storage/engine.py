"""Create the database engine.

SQLite is configured for durability and erasure. PostgreSQL is used through psycopg 3.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url

from app.domain.errors import InvalidInputError
from app.domain.json_values import plain
from app.storage.session_limits import LEASE, SessionLimits

if TYPE_CHECKING:
    from sqlalchemy import URL, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

#: Raised when the server is down, the file is locked for too long, or the pool is exhausted.
UNAVAILABLE: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
#: Execution options from which the SQLite hooks choose the kind of transaction.
_READ_ONLY: Final = "lethe_read_only"
_NO_TRANSACTION: Final = "lethe_no_transaction"
_BUSY_TIMEOUT_SECONDS: Final = 15.0
#: The error code of PostgreSQL for `idle_in_transaction_session_timeout`.
_IDLE_SESSION_ENDED: Final = "25P03"
#: Arguments of the two pools. Threads of one process that renew leases take turns.
_POOL: Final = {"pool_size": 16, "max_overflow": 16, "pool_timeout": _BUSY_TIMEOUT_SECONDS}
#: Connections for single statements outside of transactions. They are used without a test: a
#: statement that finds a lost connection is repeated on a new one.
_CHECK_POOL: Final = {"pool_size": 4, "max_overflow": 16, "pool_timeout": _BUSY_TIMEOUT_SECONDS}
_LEASE_POOL: Final = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 3.0}
_MOUNTS: Final = Path("/proc/mounts")
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "afs"}
    | {"fuse.rclone", "fuse.davfs", "davfs", "ceph", "glusterfs", "fuse.glusterfs", "ncpfs"}
)
#: One encoder for all values: `json.dumps` with an option creates an encoder per call.
_ENCODER: Final = json.JSONEncoder(allow_nan=False)
_PRAGMAS: Final = (
    "journal_mode=WAL",  # Readers do not wait for the writer.
    "foreign_keys=ON",
    "secure_delete=ON",  # Overwrite deleted content with zeros.
    "synchronous=FULL",  # A recorded deletion request survives a power failure.
    f"busy_timeout={int(_BUSY_TIMEOUT_SECONDS * 1000)}",
)


@dataclass(frozen=True, slots=True)
class Database:
    """Three connection pools, two of them with an engine that writes and one that only reads.

    The second pool is for leases: a process whose other connections all wait for a lock must not
    lose its lease. The third is for single statements outside of transactions, which only read.
    """

    write: Engine
    read: Engine
    lease_write: Engine
    lease_read: Engine
    check: Engine

    @property
    def is_sqlite(self) -> bool:
        return self.write.dialect.name == "sqlite"

    def dispose(self) -> None:
        """Close all idle connections."""
        self.write.dispose()
        self.lease_write.dispose()
        self.check.dispose()


def make_database(
    url: str, limits: SessionLimits | None = None, lease_limits: SessionLimits = LEASE
) -> Database:
    """Return the database for an SQLAlchemy URL. The first use connects.

    SQLite ignores the limits. Without limits, sessions of PostgreSQL wait and hold locks for ever.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        reading = _sqlite(parsed, _CHECK_POOL)[1]
        check = reading.execution_options(**{_NO_TRANSACTION: True})
        return Database(*_sqlite(parsed, _POOL), *_sqlite(parsed, _LEASE_POOL), check)
    if parsed.get_backend_name() == "postgresql":
        limits = limits or SessionLimits()
        general = _postgresql(parsed, _POOL | {"pool_pre_ping": True}, limits)
        leases = _postgresql(parsed, _LEASE_POOL | {"pool_pre_ping": True}, lease_limits)
        single = _postgresql(parsed, _CHECK_POOL, limits)
        return Database(
            *_transactions(general),
            *_transactions(leases),
            single.execution_options(isolation_level="AUTOCOMMIT"),
        )
    raise ValueError(
        f"the database {parsed.get_backend_name()!r} is not supported: use SQLite or PostgreSQL"
    )


def _sqlite(url: URL, pool: dict[str, Any]) -> tuple[Engine, Engine]:
    if not url.database or url.database == ":memory:":
        raise ValueError(
            "SQLite needs a database file, because several connections share the database"
        )
    path = Path(url.database)
    _refuse_network(path)
    if path.is_dir():
        raise InvalidInputError(
            f"{path} is a directory, but must be the file of the database. Move the directory "
            "away, or name another file with LETHE_DATABASE_URL."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite would create the file for all users; its -wal and -shm files get the file's mode.
    with contextlib.suppress(OSError):
        path.touch(mode=0o600)
    engine = create_engine(
        url,
        **pool,
        connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        json_serializer=_json,
        hide_parameters=True,  # Parameters contain user ids, and errors are logged.
    )
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine, engine.execution_options(**{_READ_ONLY: True})


def _refuse_network(path: Path) -> None:
    """Raise InvalidInputError for a file on a network file system, whose locks may fail."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # Only Linux has this file.
    kind = file_system_of(path.resolve(), mounts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise InvalidInputError(
            f"{path} is on the network file system {kind}, where SQLite can lose data. Use"
            " PostgreSQL (LETHE_DATABASE_URL), or a directory on a local disk."
        )


def file_system_of(path: Path, mounts: str) -> str:
    """Return the type of the file system of an absolute path, from the text of /proc/mounts."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004 -- device, directory and type
            continue
        # Blanks and other characters are octal numbers there.
        directory = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[1]))
        depth = len(directory.parts)
        # Of two mounts on one directory, the later one is visible.
        if depth >= best and path.is_relative_to(directory):
            best, kind = depth, fields[2]
    return kind


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
    if connection.get_execution_options().get(_NO_TRANSACTION, False):
        return
    # A deferred writer fails if another transaction writes after its first read.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _json(value: Any) -> str:
    """Serialize a JSON column. PostgreSQL refuses NaN, which metrics may contain."""
    return _ENCODER.encode(plain(value))


def _postgresql(url: URL, pool: dict[str, Any], limits: SessionLimits) -> Engine:
    own_options = url.query.get("options", ())
    given = [own_options] if isinstance(own_options, str) else list(own_options)
    arguments: dict[str, Any] = {"connect_timeout": 5, **limits.connection_arguments()}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        **pool,
        json_serializer=_json,
        hide_parameters=True,  # See SQLite.
        connect_args={
            # What the URL states comes first, so that an operator can change a limit.
            **{name: value for name, value in arguments.items() if name not in url.query},
            "application_name": "lethe",
            # The server applies the last of equal options.
            "options": " ".join([limits.session_options(), *given]),
        },
    )
    event.listen(engine, "handle_error", _on_ended_session)
    return engine


def _transactions(engine: Engine) -> tuple[Engine, Engine]:
    """Return the engines of PostgreSQL for transactions that write and that only read."""
    return (
        engine.execution_options(isolation_level="READ COMMITTED"),
        engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
    )


def _on_ended_session(context: ExceptionContext) -> exc.OperationalError | None:
    """Report a session that PostgreSQL ended for its idle transaction as a lost connection.

    SQLAlchemy knows this state as an internal error of a usable connection.
    """
    original = context.original_exception
    if getattr(original, "sqlstate", None) != _IDLE_SESSION_ENDED:
        return None
    context.is_disconnect = True
    return exc.OperationalError(
        context.statement, None, original, hide_parameters=True, connection_invalidated=True
    )
