"""Read ratings from Parquet files with pyarrow. The columns are those of CSV files."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

from models.datasets.column_names import (
    RowReader,
    check_counts,
    find_columns,
    missing_columns,
    missing_columns_error,
)
from models.datasets.compressed_files import MAX_UNCHECKED_CONTENT, ContentLimit
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.table import TableBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_SUFFIXES: Final = frozenset({".parquet", ".pq"})
_MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 20_000
#: From this number on, a float of this width does not hold every whole number.
_EXACT_BELOW: Final = {16: 2**11, 32: 2**24, 64: 2**53}
_IDS: Final = ("user", "item")
#: The buffer of each column. Without a buffer, pyarrow reads a row group at once.
_BUFFER: Final = 1 << 20
#: Encodings of texts that pyarrow does not turn into dictionaries.
_PREFIXES: Final = "DELTA_BYTE_ARRAY"
_NEVER_DICTIONARIES: Final = frozenset({_PREFIXES, "DELTA_LENGTH_BYTE_ARRAY"})
_MICROS: Final = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


def _recognizes(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() in _SUFFIXES or file.read(4) == _MAGIC


def _pyarrow(path: Path) -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet; raises DataSetError without pyarrow."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataSetError(
            f"{path} is a Parquet file, which requires pyarrow: "
            "run `pip install pyarrow`, or save the table as CSV."
        ) from error


def _read(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read a Parquet file; line numbers in the report are row numbers from 1."""
    arrow, _ = _pyarrow(path)
    if options.columns:
        raise DataSetError(f"{path} has names of columns. Use --map instead of --columns.")
    table = TableBuilder(report, options, open_catalog=True)
    try:
        _add_ratings(path, table, report, progress, options)
    except UnicodeDecodeError as error:
        raise DataSetError(
            f"{path} has texts or binary values that are not UTF-8. Export these columns as text."
        ) from error
    except (arrow.ArrowException, OSError) as error:
        raise DataSetError(
            f"{path} is not a readable Parquet file ({error}). Get a new copy."
        ) from error
    return table.finish(path)


def _add_ratings(
    path: Path,
    table: TableBuilder,
    report: ReadReport,
    progress: Progress | None,
    options: ReadOptions,
) -> None:
    arrow, parquet = _pyarrow(path)
    limit = ContentLimit(path, "Save the table as CSV and import the result.")
    with parquet.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    names = list(schema.names)
    columns = find_columns(names, options)
    if missing_columns(columns, options):
        raise missing_columns_error(path, names, columns, options)
    check_counts(path, names, columns, options)
    meanings = sorted(columns, key=columns.__getitem__)
    selected = [names[columns[meaning]] for meaning in meanings]
    _check_ids(path, schema, columns, arrow)
    _note_rounded_times(schema, names, columns, report)
    limit.check(_stated_content(metadata, selected))
    reader = RowReader({m: n for n, m in enumerate(meanings)}, table)
    for batch in _batches(path, parquet, metadata, selected):
        # Columns come in the order of the file or of the selection.
        by_name = [batch.column(batch.schema.get_field_index(n)) for n in selected]
        for n, (meaning, column) in enumerate(zip(meanings, by_name, strict=True)):
            if meaning == "rating" and arrow.types.is_boolean(column.type):
                by_name[n] = column.cast(arrow.int8())  # Thumbs are 1 and 0.
            if meaning in _IDS:
                _check_exact(path, meaning, column)
        texts = [_texts(column, arrow, limit) for column in by_name]
        limit.add(sum(len(text) + 1 for column in texts for text in column))
        _take_rows(path, zip(*texts, strict=True), reader, report)
        if progress is not None:
            progress(report.lines, metadata.num_rows)


def _leaves(metadata: Any, selected: Sequence[str]) -> list[int]:
    """Return the indices of the stored columns of which the selected columns consist."""
    paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    return [
        n
        for n, path in enumerate(paths)
        if any(path == name or path.startswith(f"{name}.") for name in selected)
    ]


def _stated_content(metadata: Any, selected: Sequence[str]) -> int:
    """Return a lower limit of the content of the selected columns, which the footer states.

    A value has at least one separator in a CSV file, also where a dictionary stores the value once.
    """
    leaves = _leaves(metadata, selected)
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    chunks = (group.column(n) for group in groups for n in leaves)
    return sum(max(chunk.total_uncompressed_size, chunk.num_values) for chunk in chunks)


def _batches(path: Path, parquet: Any, metadata: Any, selected: list[str]) -> Iterator[Any]:
    """Yield the rows in batches, reading a page of each column at a time.

    Texts stay in dictionaries, because a text of a dictionary may occur in any number of rows.
    """
    leaves = _leaves(metadata, selected)
    stored = [metadata.schema.column(n) for n in leaves]
    encodings = [_encodings(metadata, n) for n in leaves]
    texts = [
        column.path
        for column, used in zip(stored, encodings, strict=True)
        if column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type != "DECIMAL"
        and used.isdisjoint(_NEVER_DICTIONARIES)
    ]
    prefixed = [n for n, used in zip(leaves, encodings, strict=True) if _PREFIXES in used]
    with parquet.ParquetFile(
        path,
        metadata=metadata,
        read_dictionary=texts,
        buffer_size=_BUFFER,
        pre_buffer=False,
        page_checksum_verification=True,
    ) as file:
        rows = _rows_of_prefixed(metadata, prefixed)
        yield from file.iter_batches(batch_size=rows, columns=selected)


def _encodings(metadata: Any, leaf: int) -> set[str]:
    """Return the encodings that the stored column has in any row group."""
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    return {encoding for group in groups for encoding in group.column(leaf).encodings}


def _rows_of_prefixed(metadata: Any, leaves: Sequence[int]) -> int:
    """Return the rows of a batch, fewer with columns whose texts repeat the text before them.

    A text of a few stored bytes can be as long as all stored texts of its column.
    """
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    longest: list[int] = [
        group.column(n).total_uncompressed_size for group in groups for n in leaves
    ]
    return max(1, min(_BATCH_ROWS, MAX_UNCHECKED_CONTENT // max([1, *longest])))


def _note_rounded_times(
    schema: Any, names: list[str], columns: dict[str, int], report: ReadReport
) -> None:
    if "timestamp" not in columns:
        return
    kind = str(schema.field(columns["timestamp"]).type)
    if kind in {"float", "halffloat"}:
        report.notes.append(
            f"the column {names[columns['timestamp']]} is of type {kind}, so its times are rounded"
        )


def _check_ids(path: Path, schema: Any, columns: dict[str, int], arrow: Any) -> None:
    """Refuse ids of types that are no single values, or that have two values only."""
    for meaning in _IDS:
        kind = schema.field(columns[meaning]).type
        if arrow.types.is_nested(kind) or arrow.types.is_boolean(kind):
            raise DataSetError(
                f"{path} cannot be imported, and nothing was stored. The column of {meaning} ids is"
                f" of type {kind}. Export a column of text or integers, and name it with --map"
                f" {meaning}=COLUMN."
            )


def _check_exact(path: Path, meaning: str, column: Any) -> None:
    """Refuse ids that are floats too large to be exact: several ids may have become one."""
    width = {"halffloat": 16, "float": 32, "double": 64}.get(str(column.type))
    if width is None:
        return
    values = column.drop_null().to_numpy(zero_copy_only=False)
    # A comparison with NaN is false, and NaN in a maximum would hide all other values.
    if (abs(values) >= _EXACT_BELOW[width]).any():
        raise DataSetError(
            f"{path} cannot be imported, and nothing was stored. The column of {meaning} ids is of "
            f"type {column.type}, which rounds numbers from {_EXACT_BELOW[width]:,} on, so several "
            "ids may have become one. Export the column as integers or as text."
        )


def _texts(column: Any, arrow: Any, limit: ContentLimit) -> list[str]:
    """Return the texts that the column would have in a CSV file. Equal texts share their memory."""
    kind = column.type
    types = arrow.types
    if types.is_dictionary(kind):
        used = column.indices.dictionary_encode()
        texts = _texts(column.dictionary.take(used.dictionary), arrow, limit)
        return ["" if n is None else texts[n] for n in used.indices.to_pylist()]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _joined(column, arrow, limit)
    if types.is_timestamp(kind):
        # A time of day in UTC; without a zone it is UTC as well.
        factor, divisor = _MICROS[kind.unit]
        times = column.cast(arrow.int64()).to_pylist()
        return ["" if time is None else _iso(time * factor // divisor) for time in times]
    return [_text(value) for value in column.to_pylist()]


def _joined(column: Any, arrow: Any, limit: ContentLimit) -> list[str]:
    """Return the values of each list, separated by "|" as in a CSV file."""
    values = _texts(column.flatten(), arrow, limit)
    limit.check(sum(len(value) + 1 for value in values))
    lengths = (length or 0 for length in column.value_lengths().to_pylist())
    ends = accumulate(lengths, initial=0)
    return ["|".join(values[start:end]) for start, end in pairwise(ends)]


def _iso(micros: int) -> str:
    """Return the time in ISO 8601, which has no unit to find out."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat()
    except OverflowError:
        return "a time after the year 9999"


def _text(value: object) -> str:
    """Return the text of a Parquet cell in a CSV file."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | dict | list):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pyarrow turns integer ids with gaps into floats.
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else str(value)
    return str(value)


def _take_rows(
    path: Path, rows: Iterable[Sequence[str]], reader: RowReader, report: ReadReport
) -> None:
    report.file = path.name
    for row in rows:
        report.lines += 1
        report.line = report.lines
        try:
            reader.take(row)
        except RejectedLineError as error:
            report.reject(path.name, report.lines, error.reason)


FORMAT = Format(
    name="parquet",
    layout="a Parquet file with the columns user, item, rating and timestamp (needs pyarrow)",
    recognizes=_recognizes,
    read=_read,
)
