"""Upgrade the database to the newest schema. Several processes may call this at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc, text

from app.domain.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from app.storage.engine import Database

_MIGRATIONS: Final = Path(__file__).parents[2] / "migrations"
#: An arbitrary number, used for no other advisory lock in this database.
_ADVISORY_LOCK: Final = 0x1E74E


def alembic_config() -> Config:
    """Return the configuration of Alembic, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def migrate(database: Database) -> None:
    """Upgrade to the newest schema in one transaction.

    A second process waits for the advisory lock of PostgreSQL or the write lock of SQLite, and then
    has nothing to upgrade. Raises DatabaseUnavailableError.
    """
    config = alembic_config()
    try:
        with database.write.begin() as connection:
            if not database.is_sqlite:
                # A migration of another process, or a step of this one, may take long.
                for name in ("lock", "statement", "idle_in_transaction_session"):
                    connection.exec_driver_sql(f"SET LOCAL {name}_timeout = 0")
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": _ADVISORY_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (exc.OperationalError, exc.InterfaceError) as error:
        raise DatabaseUnavailableError from error


def is_current(database: Database) -> bool:
    """Return whether the database has the newest schema. Raises DatabaseUnavailableError."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    try:
        with database.read.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == newest
    except (exc.DatabaseError, exc.InterfaceError) as error:
        raise DatabaseUnavailableError from error
