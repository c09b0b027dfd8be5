"""Read ratings from CSV files with common delimiters, encodings and compressions.

Each row is one rating with the columns user, item, rating and timestamp. The columns title, genres
("Comedy|Drama"), attributes ("author:Le Guin|language:en"), gender, age and occupation are
optional. `column_names` lists the accepted names.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from models.datasets.column_names import (
    RowReader,
    check_counts,
    find_columns,
    missing_columns,
    missing_columns_error,
    simple_name,
)
from models.datasets.delimited import records, split_line
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.options import ReadOptions
from models.datasets.table import TableBuilder
from models.datasets.text_files import empty_file_error, numbered_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

#: The last one is that of MovieTweetings and of MovieLens files.
_DELIMITERS: Final = (",", ";", "\t", "|", "::")
_SEPARATORS: Final = (
    "Columns are separated by a comma, a semicolon, a tab, | or ::. Convert other separators, such "
    "as blanks or ^, to one of these."
)
_CSV_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt", ".tab", ".dat", ".data", ".inter"})
#: The first line of files for spreadsheets may only name the delimiter.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=.+', re.IGNORECASE)
_COMPRESSIONS: Final = (".gz", ".zst", ".zstd")


def plain_name(path: Path) -> str:
    """Return the name in lower case, without the suffix of a compression."""
    name = path.name.lower()
    for suffix in _COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


def plain_suffix(path: Path) -> str:
    """Return the suffix in lower case, without that of a compression."""
    return PurePath(plain_name(path)).suffix


def _recognizes_csv(path: Path) -> bool:
    return path.is_file() and plain_suffix(path) in _CSV_SUFFIXES


def _read_csv(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read a CSV file; items are ordered by id."""
    table = TableBuilder(report, options, open_catalog=True)
    read_rating_rows(path, table, report, options, progress)
    return table.finish(path)


def read_rating_rows(
    path: Path,
    table: TableBuilder,
    report: ReadReport,
    options: ReadOptions,
    progress: Progress | None,
) -> None:
    """Add the ratings of a delimited file to the table. Raises DataSetError."""

    def open_rows(delimiter: str, header: list[str]) -> Callable[[Sequence[str]], None]:
        del delimiter
        columns = find_columns(header, options)
        if missing_columns(columns, options):
            error = missing_columns_error(path, header, columns, options)
            raise DataSetError(f"{error} {_SEPARATORS}") if len(header) == 1 else error
        check_counts(path, header, columns, options)
        return RowReader(columns, table).take

    read_rows(path, report, options, open_rows, progress)


def read_rows(
    path: Path,
    report: ReadReport,
    options: ReadOptions,
    open_rows: Callable[[str, list[str]], Callable[[Sequence[str]], None]],
    progress: Progress | None = None,
) -> None:
    """Pass the rows of a delimited file to the function that `open_rows` returns.

    `open_rows` receives the delimiter and the header. With the option `columns` the file has no
    header, and the fields of the first line are given instead.
    """
    lines = numbered_lines(path, report, progress, options.encoding)
    first = next(lines, None)
    if first is not None and _SEPARATOR_LINE.fullmatch(first[1]):
        first = next(lines, None)
    if first is None:
        raise empty_file_error(path)
    delimiter, header = _detect_delimiter(first[1], options)
    take = open_rows(delimiter, header)
    if options.columns:
        lines = chain([first], lines)
        if len(header) < len(options.columns):
            raise DataSetError(
                f"{path} has fewer columns than --columns names: {len(header)} instead of "
                f"{len(options.columns)}. {_SEPARATORS}"
            )
    for number, fields in records(lines, delimiter, len(header)):
        report.lines += 1
        try:
            if isinstance(fields, RejectedLineError):
                raise fields
            take(fields)
        except RejectedLineError as error:
            report.reject(path.name, number, error.reason)


def _detect_delimiter(line: str, options: ReadOptions) -> tuple[str, list[str]]:
    """Return the delimiter that gives the most columns with meanings, then fields; and the fields.

    Delimiters are tried in order of their frequency in data sets.
    """
    candidates: list[tuple[str, list[str]]] = []
    for delimiter in _DELIMITERS:
        try:
            candidates.append((delimiter, split_line(line, delimiter)))
        except RejectedLineError:
            continue
    if options.columns:
        exact = [c for c in candidates if len(c[1]) == len(options.columns)]
        candidates = exact or candidates
    if not candidates:
        return ",", [line]
    auto = ReadOptions(column_names={})

    def known(candidate: tuple[str, list[str]]) -> tuple[int, int]:
        names = set(map(simple_name, options.column_names.values()))
        mapped = len(names.intersection(map(simple_name, candidate[1])))
        return len(find_columns(candidate[1], auto)) + mapped, len(candidate[1])

    return max(candidates, key=known)


CSV = Format(
    name="csv",
    layout="a CSV file whose header names user, item, rating and timestamp (.csv[.gz|.zst])",
    recognizes=_recognizes_csv,
    read=_read_csv,
)
