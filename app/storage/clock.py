"""The clock of the database as an SQL expression.

All leases are compared by this one clock, because the clocks of the processes may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler


class db_now(FunctionElement[float]):  # noqa: N801 - named like the SQL function
    """Seconds since the epoch (UTC) by the clock of the database, as a double."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _postgresql(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # clock_timestamp() advances within a transaction; now() does not.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(db_now, "sqlite")
def _sqlite(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; the Julian day has milliseconds in all versions.
    return "((julianday('now') - 2440587.5) * 86400.0)"
