"""Upgrade the database to the newest schema. Several processes may call this at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import exc, text

from app.domain.errors import (
    DamagedDatabaseError,
    DatabaseUnavailableError,
    NewerSchemaError,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from app.storage.engine import Database

_MIGRATIONS: Final = Path(__file__).parents[2] / "migrations"
#: An arbitrary number, used for no other advisory lock in this database.
_ADVISORY_LOCK: Final = 0x1E74E
_DAMAGED: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
#: A try to lock tables blocks other queries, so it is short.
_TRY_SECONDS, _PAUSE_SECONDS, _TRIES = 2, 1.0, 200


def alembic_config() -> Config:
    """Return the configuration of Alembic, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def migrate(database: Database) -> None:
    """Upgrade to the newest schema in one transaction.

    A second process waits for the advisory lock of PostgreSQL or the write lock of SQLite, and then
    has nothing to upgrade. Raises DatabaseUnavailableError, DamagedDatabaseError, NewerSchemaError.
    """
    config = alembic_config()
    try:
        with database.write.begin() as connection:
            lock_migrations(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        # The scripts of this version do not have the revision in the database.
        raise NewerSchemaError from error
    except (exc.OperationalError, exc.InterfaceError) as error:
        raise DatabaseUnavailableError from error
    except exc.DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", None) in _DAMAGED:
            raise DamagedDatabaseError from error
        raise


def lock_migrations(connection: Connection) -> None:
    """Wait until no other process migrates, and keep others out until the transaction ends.

    A writing transaction of SQLite has the write lock already.
    """
    if connection.dialect.name == "sqlite":
        return
    # A migration of another process, or a step of this one, may take long.
    for name in ("lock", "statement", "idle_in_transaction_session"):
        connection.exec_driver_sql(f"SET LOCAL {name}_timeout = 0")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def lock_tables(connection: Connection, *tables: str) -> None:
    """Lock tables of PostgreSQL for the rest of the migration, in short tries.

    A query that needs a table waits behind each try. One long try could wait for a process that
    reads all data, and stop the service meanwhile.
    """
    for left in reversed(range(_TRIES)):
        attempt = connection.begin_nested()
        try:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_TRY_SECONDS}s'")
            connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        except exc.OperationalError:
            attempt.rollback()
            if not left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            attempt.commit()
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            return


def is_current(database: Database) -> bool:
    """Return whether the database has the newest schema. Raises DatabaseUnavailableError."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    try:
        with database.read.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == newest
    except (exc.DatabaseError, exc.InterfaceError) as error:
        raise DatabaseUnavailableError from error
