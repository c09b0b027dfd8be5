"""Run the migrations on the caller's connection, or on the database of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from app.settings import get_settings
from app.storage.engine import make_database
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


def _main() -> None:
    if context.is_offline_mode():
        raise RuntimeError("migrations need a database connection: run Alembic without --sql")
    connection_of_caller: Connection | None = context.config.attributes.get("connection")
    if connection_of_caller is not None:
        _run(connection_of_caller)
        return
    url = context.get_x_argument(as_dictionary=True).get("url", get_settings().sqlalchemy_url)
    database = make_database(url)
    try:
        with database.write.begin() as connection:
            _run(connection)
    finally:
        database.dispose()


_main()
