"""Read ratings from JSON lines: Goodreads, Amazon reviews, Yelp and others, optionally compressed.

The fields are those of CSV files. Titles come from catalog files in the same directory, for example
`goodreads_books*.json` or `meta_*.jsonl`.
"""

from __future__ import annotations

import ast
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from models.datasets.column_names import (
    RowReader,
    check_counts,
    find_columns,
    missing_columns,
    missing_columns_error,
)
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.generic_csv import plain_suffix
from models.datasets.table import TableBuilder
from models.datasets.text_files import consume
from models.datasets.values import EXACT_BELOW, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_SUFFIXES: Final = frozenset({".json", ".jsonl", ".ndjson"})
_INTERACTIONS: Final = "goodreads_interactions"
#: The catalog files beside ratings, and the fields of their ids and titles.
_CATALOGS: Final = (
    ("goodreads_books*", ("book_id",), "title"),
    ("meta_*", ("parent_asin", "asin"), "title"),
    ("yelp_academic_dataset_business*", ("business_id",), "name"),
)
#: Fields with the time of a rating in Goodreads files, preferred first: the last update counts.
_GOODREADS_DATES: Final = ("date_updated", "date", "timestamp", "date_added")
_ROUNDED: Final = "9E+15"


def _recognizes(path: Path) -> bool:
    if path.is_file():
        return plain_suffix(path) in _SUFFIXES
    return bool(_files(path, f"{_INTERACTIONS}*"))


def _files(directory: Path, pattern: str) -> list[Path]:
    """Return the JSON lines files of the directory that match the pattern, by name."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.glob(pattern) if plain_suffix(path) in _SUFFIXES)


def _read(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read a file, or all goodreads_interactions* files of a directory; items ordered by id."""
    files = [path] if path.is_file() else _files(path, f"{_INTERACTIONS}*")
    if not files:
        raise DataSetError(f"{path} contains no {_INTERACTIONS}*.json. Give the path of the file.")
    if options.columns:
        raise DataSetError(f"{path} has names of fields. Use --map instead of --columns.")
    table = TableBuilder(report, options, open_catalog=True)
    for file in files:
        adder = _RatingAdder(file, table, options)
        consume(file, report, adder.add, progress, options.encoding)
        adder.check(is_alone=len(files) == 1)
    report.note_files(files)
    _describe_items(files[0].parent, table, report, options)
    return table.finish(path)


class _RatingAdder:
    """Add the ratings of one file to the table."""

    def __init__(self, path: Path, table: TableBuilder, options: ReadOptions) -> None:
        self._path = path
        self._table = table
        self._options = options
        #: Names of the fields of an entry → reader; most files have one kind of entry.
        self._readers: dict[tuple[str, ...], RowReader] = {}
        self._is_array = False

    def check(self, *, is_alone: bool) -> None:
        """Raise DataSetError if no line of the file was an entry.

        The rejected lines of a file that is alone are reported as those of other formats.
        """
        if self._readers:
            return
        if self._is_array:
            raise DataSetError(
                f"{self._path} is a JSON array. Write an object per line, for example with "
                "`jq -c '.[]'`."
            )
        if not is_alone:
            raise DataSetError(
                f"{self._path} has no line with a JSON object, so the file may be damaged, and "
                "nothing was stored. Get a new copy, or remove the file."
            )

    def add(self, line: str) -> None:
        self._is_array |= line.startswith("[")
        entry = _parse(line)
        fields = _flat(entry)
        names = tuple(fields)
        reader = self._readers.get(names)
        if reader is None:
            reader = self._reader_for(names)
        values = tuple(entry.values())
        for meaning in ("user", "item"):
            if isinstance(values[reader.columns[meaning]], list):
                raise RejectedLineError(f"the {meaning} id is a list")
        if "book_id" in fields:
            _prepare_goodreads(fields)
        row = list(fields.values())
        rating = reader.columns.get("rating")
        if rating is not None and isinstance(values[rating], bool):
            row[rating] = str(values[rating])  # Thumbs: ids and titles have no truth values.
        reader.take(row)

    def _reader_for(self, names: tuple[str, ...]) -> RowReader:
        columns = find_columns(names, self._options)
        if missing_columns(columns, self._options):
            if self._readers:
                raise RejectedLineError("the entry has other fields than those before")
            raise missing_columns_error(self._path, names, columns, self._options)
        check_counts(self._path, names, columns, self._options)
        reader = RowReader(columns, self._table)
        if len(self._readers) < 1000:  # noqa: PLR2004 -- entries with random fields fill no memory
            self._readers[names] = reader
        return reader


def _prepare_goodreads(fields: dict[str, str]) -> None:
    """Refuse an entry without a rating, and use the newest of its times in place of others."""
    if fields.get("rating") == "0":
        raise RejectedLineError("the book has no rating (0 stars)")
    time = next((fields[name] for name in _GOODREADS_DATES if fields.get(name)), "")
    for name in _GOODREADS_DATES:
        if name in fields:
            fields[name] = time


def _describe_items(
    directory: Path, table: TableBuilder, report: ReadReport, options: ReadOptions
) -> None:
    """Take the titles of rated items from the catalog files of the directory."""
    unrated = 0
    for pattern, id_fields, title_field in _CATALOGS:
        for file in _files(directory, pattern):

            def describe(
                line: str, id_fields: tuple[str, ...] = id_fields, title: str = title_field
            ) -> None:
                nonlocal unrated
                entry = _flat(_parse(line))
                ids = [entry[name] for name in id_fields if entry.get(name)]
                item = next((i for i in map(table.item_index, ids) if i is not None), None)
                if item is not None:
                    table.describe_item(item, one_line(entry.get(title, "")), {})
                unrated += item is None and bool(ids)
                report.described += 1

            consume(file, report, describe, encoding=options.encoding)
    if unrated:
        report.notes.append(f"{unrated:,} items of catalog files have no rating and were not taken")


def _float_text(text: str) -> str:
    """Return the text that a JSON number with a fraction or an exponent has in a CSV file."""
    if "e" not in text.lower():
        return _ROUNDED if abs(float(text)) >= EXACT_BELOW else text
    try:
        return f"{Decimal(text):E}"
    except ArithmeticError:
        return _ROUNDED


_DECODER: Final = json.JSONDecoder(parse_float=_float_text)


def _parse(line: str) -> dict[str, Any]:
    try:
        # Catalog files of Amazon 2014 have dictionaries of Python 3, reviews of Steam of Python 2.
        is_python = line.startswith(("{'", "{u'", '{u"'))
        entry = ast.literal_eval(line) if is_python else _DECODER.decode(line)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise RejectedLineError("the line is not valid JSON") from error
    # Dictionaries of Python may have keys of other types.
    if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
        raise RejectedLineError("the line is not a JSON object")
    return entry


def _flat(entry: dict[str, Any]) -> dict[str, str]:
    """Return the texts of the fields; an empty text for a field without one."""
    return {name: _text(value) for name, value in entry.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, float) and abs(value) >= EXACT_BELOW:
        return _ROUNDED
    if isinstance(value, int | float):
        return str(value)
    return "|".join(_join(value)) if isinstance(value, list) else ""


def _join(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


FORMAT = Format(
    name="goodreads",
    layout="a file of JSON lines with user_id, an item id, rating and a date (.json[.gz|.zst]), or "
    "a directory with goodreads_interactions*.json",
    recognizes=_recognizes,
    read=_read,
)
