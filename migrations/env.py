"""Run the migrations on the caller's connection, or on the database of the settings."""

from __future__ import annotations

import sys
from inspect import cleandoc
from typing import TYPE_CHECKING

from alembic import context
from alembic.migration import MigrationContext

from app.domain.errors import NewerSchemaError
from app.settings import settings_or_exit
from app.storage.engine import make_database
from app.storage.migrate import lock_migrations
from app.storage.tables import Base

if TYPE_CHECKING:
    from sqlalchemy import Connection


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot alter a table in place, so Alembic copies the table.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _refuse_newer_schema(connection: Connection) -> None:
    """End with a sentence, as `lethe` does, if the scripts do not have the database's revision."""
    revision = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in context.script.walk_revisions()}
    if revision is not None and revision not in known:
        sys.stderr.write(f"{cleandoc(NewerSchemaError.__doc__ or '')}\n")
        sys.exit(2)


def _main() -> None:
    if context.is_offline_mode():
        raise RuntimeError("migrations need a database connection: run Alembic without --sql")
    connection_of_caller: Connection | None = context.config.attributes.get("connection")
    if connection_of_caller is not None:
        _run(connection_of_caller)
        return
    url = context.get_x_argument(as_dictionary=True).get("url", settings_or_exit().sqlalchemy_url)
    database = make_database(url)
    try:
        with database.write.begin() as connection:
            lock_migrations(connection)
            _refuse_newer_schema(connection)
            _run(connection)
    finally:
        database.dispose()


_main()
