"""Read ratings from CSV files (common delimiters and encodings) and, with pyarrow, from Parquet.

Each row is one rating with the columns user, item, rating and timestamp. The columns title, genres
("Comedy|Drama"), attributes ("author:Le Guin|language:en"), gender, age and occupation are
optional. `column_names` lists the accepted names.
"""

from __future__ import annotations

import importlib
from datetime import date, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from models.datasets.column_names import RowReader, find_columns, missing_columns
from models.datasets.delimited import records, split_line
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.table import TableBuilder
from models.datasets.text_files import numbered_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_DELIMITERS: Final = (",", ";", "\t", "|")
_CSV_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt", ".tab"})
_PARQUET_SUFFIXES: Final = frozenset({".parquet", ".pq"})
_PARQUET_MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 20_000


def _recognizes_csv(path: Path) -> bool:
    plain_name = path.name.lower().removesuffix(".gz")
    return path.is_file() and PurePath(plain_name).suffix in _CSV_SUFFIXES


def _read_csv(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read a CSV file with a header; items are ordered by id."""
    table = TableBuilder(report, open_catalog=True)
    lines = numbered_lines(path, report, progress)
    _, header_line = next(lines, (0, ""))
    delimiter, header = _detect_delimiter(path, header_line)
    reader = RowReader(find_columns(header), table)
    for number, fields in records(lines, delimiter, len(header)):
        report.lines += 1
        try:
            if isinstance(fields, RejectedLineError):
                raise fields
            reader.take(fields)
        except RejectedLineError as error:
            report.reject(path.name, number, error.reason)
    return table.finish(path)


def _detect_delimiter(path: Path, header_line: str) -> tuple[str, list[str]]:
    """Return the delimiter that gives all required columns, and the names; raises DataSetError."""
    candidates: list[tuple[str, list[str]]] = []
    for delimiter in _DELIMITERS:
        try:
            candidates.append((delimiter, split_line(header_line, delimiter)))
        except RejectedLineError:
            continue
    for delimiter, names in candidates:
        if not missing_columns(find_columns(names)):
            return delimiter, names
    names = max((names for _, names in candidates), key=len, default=[])
    raise _missing_columns_error(path, names)


def _missing_columns_error(path: Path, names: Sequence[str]) -> DataSetError:
    missing = ", ".join(missing_columns(find_columns(names)))
    present = ", ".join(name.strip()[:40] for name in names[:12]) or "nothing"
    return DataSetError(
        f"{path} has no column for: {missing}. The first line must name the columns, for example "
        f"user_id,item_id,rating,timestamp; found: {present}."
    )


def _recognizes_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() in _PARQUET_SUFFIXES or file.read(4) == _PARQUET_MAGIC


def _read_parquet(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read a Parquet file; line numbers in the report are row numbers from 1."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataSetError(
            f"{path} is a Parquet file, which requires pyarrow: "
            "run `pip install pyarrow`, or save the table as CSV."
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            columns = find_columns(names)
            if missing_columns(columns):
                raise _missing_columns_error(path, names)
            meanings = sorted(columns, key=columns.__getitem__)
            batches = file.iter_batches(
                batch_size=_BATCH_ROWS, columns=[names[columns[meaning]] for meaning in meanings]
            )
            reader = RowReader(
                {meaning: position for position, meaning in enumerate(meanings)},
                TableBuilder(report, open_catalog=True),
            )
            total = file.metadata.num_rows
            for batch in batches:
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                _take_rows(path, rows, reader, report)
                if progress is not None:
                    progress(report.lines, total)
    except (arrow.ArrowException, OSError) as error:
        raise DataSetError(f"{path} is not a readable Parquet file: {error}") from error
    return reader.table.finish(path)


def _take_rows(
    path: Path, rows: Iterable[Sequence[object]], reader: RowReader, report: ReadReport
) -> None:
    for row in rows:
        report.lines += 1
        try:
            reader.take([_csv_text(value) for value in row])
        except RejectedLineError as error:
            report.reject(path.name, report.lines, error.reason)


def _csv_text(value: object) -> str:
    """Return the text of a Parquet cell in a CSV file."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pyarrow turns integer ids with gaps into floats.
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "|".join(map(_csv_text, value))
    return str(value)


CSV = Format(
    name="csv",
    layout="a CSV file whose header names user, item, rating and timestamp",
    recognizes=_recognizes_csv,
    read=_read_csv,
)
PARQUET = Format(
    name="parquet",
    layout="a Parquet file with the columns user, item, rating and timestamp (needs pyarrow)",
    recognizes=_recognizes_parquet,
    read=_read_parquet,
)
