"""Take backups of databases and directories, and restore them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import make_url

from app.storage.tables import Base

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database


@dataclass(frozen=True)
class DatabaseBackup:
    """The content of a database, of SQLite as a file and of PostgreSQL as copied tables."""

    content: dict[str, bytes]

    @classmethod
    def of(cls, database: Database) -> DatabaseBackup:
        if database.is_sqlite:
            with closing(_sqlite(database)) as source:
                content = bytearray(source.serialize())
            content[18:20] = b"\1\1"  # A database in memory has no write-ahead log.
            return cls({"": bytes(content)})
        tables: dict[str, bytes] = {}
        with _postgres(database) as server:
            server.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for table in Base.metadata.sorted_tables:
                with server.cursor().copy(f'COPY "{table.name}" TO STDOUT') as copy:
                    tables[table.name] = b"".join(bytes(part) for part in copy)
        return cls(tables)

    def restore(self, database: Database) -> None:
        """Replace the database's content, also while processes are connected.

        Other transactions of PostgreSQL see the old or the new content. After a TRUNCATE they could
        see empty tables.
        """
        if database.is_sqlite:
            with closing(sqlite3.connect(":memory:")) as source:
                source.deserialize(self.content[""])
                with closing(_sqlite(database)) as target:
                    source.backup(target)
            return
        tables = [table.name for table in Base.metadata.sorted_tables]
        with _postgres(database) as server:
            server.execute(f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
            for table in reversed(tables):
                server.execute(f"DELETE FROM {table}")
            for table in tables:
                with server.cursor().copy(f'COPY "{table}" FROM STDIN') as copy:
                    copy.write(self.content[table])
            for table in ("outbox", "scrub_owed"):
                newest = f"SELECT COALESCE(MAX(id), 0) + 1 FROM {table}"
                sequence = f"pg_get_serial_sequence('{table}', 'id')"
                server.execute(f"SELECT setval({sequence}, ({newest}), false)")


class DirectoryBackup:
    """A copy of a directory tree."""

    def __init__(self, directory: Path, copy: Path) -> None:
        self._directory = directory
        self._copy = copy
        shutil.copytree(directory, copy)

    def restore(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        shutil.copytree(self._copy, self._directory)


def _sqlite(database: Database) -> sqlite3.Connection:
    connection = sqlite3.connect(database.write.url.database or "", timeout=20)
    connection.execute("PRAGMA busy_timeout = 20000")
    return connection


def _postgres(database: Database) -> psycopg.Connection:
    url = make_url(database.write.url).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False))
