"""Read Goodreads ratings from JSON lines (goodreads_interactions*.json, optionally gzipped).

Titles come from goodreads_books*.json in the same directory, if that file exists.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from models.datasets.column_names import title_value
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.table import TITLE, TableBuilder
from models.datasets.text_files import consume
from models.datasets.values import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
_INTERACTIONS: Final = "goodreads_interactions"
_BOOKS: Final = "goodreads_books"
#: Fields with the time of a rating, preferred first: the last update is the time of the rating.
_DATES: Final = ("date_updated", "date", "timestamp", "date_added")
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
_DATE_FIELDS: Final = 6


def _recognizes(path: Path) -> bool:
    if path.is_file():
        return path.name.lower().endswith(_SUFFIXES)
    return _find(path, _INTERACTIONS) is not None


def _find(directory: Path, stem: str) -> Path | None:
    """Return the first JSON lines file of the directory whose name starts with `stem`."""
    if not directory.is_dir():
        return None
    names = sorted(p for p in directory.glob(f"{stem}*") if p.name.lower().endswith(_SUFFIXES))
    return names[0] if names else None


def _read(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read an interactions file, or that of a directory; items are ordered by id."""
    file = path if path.is_file() else _find(path, _INTERACTIONS)
    if file is None:
        raise DataSetError(f"{path} contains no {_INTERACTIONS}*.json. Give the path of the file.")
    table = TableBuilder(report, open_catalog=True)

    def add_rating(line: str) -> None:
        entry = _parse(line)
        stars = _text(entry, "rating")
        if stars == "0":
            raise RejectedLineError("the book has no rating (0 stars)")
        timestamp = next((text for name in _DATES if (text := _text(entry, name))), "")
        table.add_rating(
            _text(entry, "user_id"), _text(entry, "book_id"), stars, _unix_seconds(timestamp)
        )
        table.describe_rated_item(TITLE, _text(entry, "title"), title_value)

    def describe_book(line: str) -> None:
        entry = _parse(line)
        item = table.item_index(_text(entry, "book_id"))
        if item is not None:
            table.describe_item(item, one_line(_text(entry, "title")), {})
        report.described += 1

    consume(file, report, add_rating, progress)
    books = _find(file.parent, _BOOKS)
    if books is not None:
        consume(books, report, describe_book)
    return table.finish(file)


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RejectedLineError("the line is not valid JSON") from error
    if not isinstance(entry, dict):
        raise RejectedLineError("the line is not a JSON object")
    return entry


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    return str(value) if isinstance(value, str | int | float) else ""


def _unix_seconds(text: str) -> str:
    """Convert "Tue Oct 17 09:40:11 -0700 2017" to Unix seconds; return other texts unchanged.

    `strptime` also parses this form, but takes five times as long and depends on the locale.
    """
    parts = text.split()
    if len(parts) != _DATE_FIELDS or parts[1] not in _MONTHS:
        return text
    _, month, day, clock, zone, year = parts
    try:
        hour, minute, second = map(int, clock.split(":"))
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
        local = datetime(int(year), _MONTHS[month], int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return text
    return str(int((local + offset if zone[0] == "-" else local - offset).timestamp()))


FORMAT = Format(
    name="goodreads",
    layout="a Goodreads file of JSON lines with user_id, book_id, rating and a date (.json[.gz])",
    recognizes=_recognizes,
    read=_read,
)
