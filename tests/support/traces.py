"""Search every table and file of an installation for the traces of an id."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import inspect, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.storage.engine import Database


def written_forms(value: str) -> set[bytes]:
    """Return the encodings in which a database, a JSON column, a file or a URL may hold a value."""
    forms: set[bytes] = set()
    for kind in ("NFC", "NFD"):
        spelling = unicodedata.normalize(kind, value)
        for case in {value, spelling, spelling.lower()}:
            escaped = json.dumps(case)[1:-1]
            forms |= {case.encode(), escaped.encode(), json.dumps(escaped)[1:-1].encode()}
            forms |= {json.dumps(case, ensure_ascii=False)[1:-1].encode(), case.encode("utf-16-le")}
            forms |= {quote(case).encode(), quote(case, safe="").lower().encode()}
    return forms


def has_any(content: bytes, values: Iterable[str]) -> bool:
    return any(form in content for value in values for form in written_forms(value))


def traces_in_tables(database: Database, values: Iterable[str]) -> list[str]:
    """Return the tables that have a value, with PostgreSQL's column statistics."""
    values = list(values)
    tables = inspect(database.write).get_table_names()
    assert "requests" in tables
    if not database.is_sqlite:
        tables += ["pg_stats"]
    with database.read.connect() as connection:
        return [
            table
            for table in tables
            if has_any(_rows(connection.execute(text(f"SELECT * FROM {table}"))), values)
        ]


def _rows(rows: Iterable[Iterable[object]]) -> bytes:
    return "\n".join(str(value) for row in rows for value in row).encode()


def traces_in_files(directory: Path, values: Iterable[str]) -> list[str]:
    """Return the files whose name or content has a value."""
    values = list(values)
    with tempfile.TemporaryDirectory() as scratch:
        # Another process copies the files: when this process closes a file of SQLite, it loses the
        # locks of its own connections, and a worker may then overwrite what they read.
        subprocess.run(["cp", "-a", f"{directory}/.", scratch], check=True)
        copied = Path(scratch)
        return sorted(
            str(path.relative_to(copied))
            for path in copied.rglob("*")
            if path.is_file() and has_any(path.name.encode() + b"\n" + path.read_bytes(), values)
        )


def traces_in_pages(database: Database, values: Iterable[str]) -> set[str]:
    """Return PostgreSQL's tables and indexes with row versions or entries that have a value.

    Free space within pages is not read: PostgreSQL does not overwrite what VACUUM removes.
    """
    values = list(values)
    with database.write.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pageinspect"))
    return {name for name, content in _pages(database) if has_any(content, values)}


def _pages(database: Database) -> Iterator[tuple[str, bytes]]:
    relations = text(
        "SELECT c.oid::regclass::text, c.relkind, pg_relation_size(c.oid) / 8192 FROM pg_class c "
        "WHERE (relnamespace = 'public'::regnamespace OR c.oid = 'pg_statistic'::regclass) "
        "AND relkind IN ('r', 'i')"
    )
    heap = text(
        "SELECT t_data FROM heap_page_items(get_raw_page(:name, :page)) WHERE t_data IS NOT NULL"
    )
    index = text("SELECT decode(replace(data, ' ', ''), 'hex') FROM bt_page_items(:name, :page)")
    with database.write.connect() as connection:
        for name, kind, pages in connection.execute(relations).all():
            for page in range(1 if kind == "i" else 0, pages):
                items = connection.execute(
                    index if kind == "i" else heap, {"name": name, "page": page}
                )
                yield name, b"\n".join(bytes(item) for (item,) in items if item is not None)


def guide_rows(heading: str) -> dict[str, tuple[str, str]]:
    """Return name → (before, after) of a table in the guide of erasure."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "erasure.md").read_text()
    section = guide.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    return {name: (before, after) for name, before, after in rows}
