"""Read user ids from a file: one id per line, or a CSV file with a column `user_id`."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path
from typing import Final

from app.cli.failures import BadInputError

COLUMN: Final = "user_id"
STANDARD_INPUT: Final = Path("-")
#: About three million ids.
MOST_BYTES: Final = 64 * 2**20


def read_user_ids(path: Path) -> list[str]:
    """Return the ids in the file, or in standard input for `-`; raises BadInputError.

    A line of a CSV file without an id gives an empty id, which is refused like any other bad id.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    data = _read(path)
    if len(data) > MOST_BYTES:
        raise BadInputError(
            f"{name} has more than {MOST_BYTES // 2**20} MiB. Give the ids in several files."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{name} is not UTF-8 text. Save the file as UTF-8.") from error
    # Not `splitlines`, which also splits an id at an invisible character: two other ids.
    first, *rest = re.split(r"\r\n|\r|\n", text)
    delimiter = _delimiter(first)
    try:
        ids = _plain([first, *rest]) if delimiter is None else _column(text, delimiter)
    except (csv.Error, ValueError) as error:
        raise BadInputError(f"{name} is not valid CSV: {error}.") from error
    if not ids:
        raise BadInputError(f"{name} has no user id. Write one id per line, or a column user_id.")
    return ids


def _read(path: Path) -> bytes:
    """Return at most one byte more than MOST_BYTES: a device or a pipe may never end."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read(MOST_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _delimiter(header: str) -> str | None:
    """Return the delimiter of a CSV header with the column, or None if there is no such header."""
    for delimiter in (",", ";", "\t"):
        if COLUMN in _names(header, delimiter):
            return delimiter
    return None


def _names(header: str, delimiter: str) -> list[str]:
    row = next(csv.reader([header], delimiter=delimiter), [])
    return [name.strip().lower() for name in row]


def _plain(lines: list[str]) -> list[str]:
    return [line for line in map(str.strip, lines) if line]


def _column(text: str, delimiter: str) -> list[str]:
    """Return the column; raises BadInputError for a row that is cut where a value has a comma."""
    # `newline=""` keeps line ends in quotes: without them, two numbers would become another id.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [name.strip().lower() for name in next(rows)]
    position = header.index(COLUMN)
    ids = []
    for row in rows:
        if len(row) > len(header):
            raise BadInputError(
                f"Line {rows.line_num} of the CSV file has {len(row)} values, but the header has"
                f" {len(header)}. Put each value that contains {delimiter!r} in quotes."
            )
        if row:
            ids.append(row[position] if position < len(row) else "")
    return ids
