"""Copy the rows of a database and put them back, as a restore from a backup does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from app.storage.tables import Base

if TYPE_CHECKING:
    from app.storage.engine import Database

Rows = dict[str, list[dict[str, Any]]]


def copy_rows(database: Database) -> Rows:
    """Return the rows of all tables."""
    with database.read.connect() as connection:
        return {
            table.name: [
                {column.key: row[column] for column in table.columns}
                for row in connection.execute(select(table)).mappings()
            ]
            for table in Base.metadata.sorted_tables
        }


def put_back(database: Database, rows: Rows) -> None:
    """Replace the rows of all tables."""
    with database.write.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(table))
        for table in Base.metadata.sorted_tables:
            if rows[table.name]:
                connection.execute(insert(table), rows[table.name])
