"""The base class of repositories, with upserts and long lists of parameters."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import insert, text
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, CursorResult, Executable, Table

    from app.storage.tables import Base

T = TypeVar("T")

#: Parameters per statement. The limit of both databases is higher, but a small number keeps query
#: plans and statement caches small.
_PORTION: Final = 500
#: Rows from which on one JSON parameter is faster than a statement per row.
_MANY: Final = 10


class Repository:
    """Queries on one connection, inside the transaction of its unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _is_postgresql(self) -> bool:
        return self._connection.dialect.name == "postgresql"

    def _allow_long(self) -> None:
        """Remove the limits on statements and pauses of this transaction."""
        if self._is_postgresql:
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                self._connection.exec_driver_sql(f"SET LOCAL {name} = 0")

    def _changed(self, statement: Executable) -> int:
        """Execute an update or delete and return the number of changed rows."""
        result = cast("CursorResult[Any]", self._connection.execute(statement))
        return result.rowcount

    def _insert_all(self, row: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that have values for the same columns.

        PostgreSQL gets many rows as one JSON parameter, because the driver sends a message per row
        for a list of parameters. SQLite has no such cost.
        """
        if not self._is_postgresql or len(rows) < _MANY:
            if rows:
                self._connection.execute(insert(row), list(rows))
            return
        table = table_of(row)
        columns = {key: table.c[key].name for key in rows[0]}
        names = ", ".join(f'"{name}"' for name in columns.values())
        records = [{columns[key]: _json_value(value) for key, value in r.items()} for r in rows]
        self._connection.execute(
            text(
                f'INSERT INTO "{table.name}" ({names}) SELECT {names} '  # noqa: S608 - own names
                f'FROM json_populate_recordset(NULL::"{table.name}", CAST(:records AS json))'
            ),
            {"records": json.dumps(records)},
        )

    def _insert(self, row: type[Base]) -> sqlite.Insert:
        """Return an INSERT with ON CONFLICT, which has the same syntax in both dialects."""
        if self._is_postgresql:
            # The two classes have the same interface, but no common base class with ON CONFLICT.
            return cast("sqlite.Insert", postgresql.insert(table_of(row)))
        return sqlite.insert(table_of(row))


def _json_value(value: Any) -> Any:
    """Return a column's value as it is stored: times as seconds since the epoch."""
    return value.timestamp() if isinstance(value, datetime) else value


def table_of(row: type[Base]) -> Table:
    """Return the table of a declarative class."""
    return cast("Table", row.__table__)


def portions(values: Iterable[T], size: int = _PORTION) -> Iterator[list[T]]:
    """Split the values into lists for one statement each."""
    iterator = iter(values)
    while portion := list(islice(iterator, size)):
        yield portion
