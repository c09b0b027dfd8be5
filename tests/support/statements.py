"""Record the SQL statements that an installation executes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.engine import Database
    from benchmarks.installations import Installation


@contextmanager
def statements(
    installation: Installation, *, only_this_thread: bool = False
) -> Iterator[list[str]]:
    """Collect the statements of the block, in the order of their execution, by all threads."""
    with recorded(installation.uow.database, only_this_thread=only_this_thread) as executed:
        yield executed


@contextmanager
def recorded(database: Database, *, only_this_thread: bool = False) -> Iterator[list[str]]:
    """Collect the statements of the block on this database."""
    caller = threading.get_ident()
    executed: list[str] = []
    latest: list[Any] = [None]

    def record(_connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if only_this_thread and threading.get_ident() != caller:
            return
        # Engines of one pool call the listeners of both. BEGIN and PRAGMA are no statements here.
        if cursor is not latest[0] and not sql.startswith(("BEGIN", "PRAGMA")):
            executed.append(" ".join(sql.split()))
        latest[0] = cursor

    engines = list(
        {id(engine): engine for engine in (database.read, database.write, database.check)}.values()
    )
    for engine in engines:
        event.listen(engine, "before_cursor_execute", record)
    try:
        yield executed
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", record)


def is_whole_table(sql: str) -> bool:
    """Return whether the statement reads all interactions."""
    return "FROM interactions" in sql and "WHERE" not in sql
