"""The database's clock as a SQL expression, so that leases are compared by one clock only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """Seconds since the epoch (UTC) by the clock of the database, as a double."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _postgresql(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # clock_timestamp() goes on within a transaction; now() would stand still.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(db_now, "sqlite")
def _sqlite(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; the Julian day has milliseconds everywhere.
    return "((julianday('now') - 2440587.5) * 86400.0)"
