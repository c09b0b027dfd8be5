"""Detect the format of a data set and read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.datasets import generic_csv, json_lines, movielens, parquet, table_directories
from models.datasets.column_names import items_only_error
from models.datasets.errors import DataSetError, UnknownFormatError
from models.datasets.generic_csv import plain_name, plain_suffix
from models.datasets.options import ReadOptions
from models.datasets.read_report import ReadReport
from models.datasets.time_column import OtherTimeUnitError

if TYPE_CHECKING:
    from models.data.interactions import Interactions
    from models.datasets.formats import Format
    from models.datasets.text_files import Progress

__all__ = ["FORMATS", "DataSetError", "UnknownFormatError", "detect_format", "read"]

#: All formats by name, in the order of detection: more specific layouts come first.
FORMATS: Final[dict[str, Format]] = {
    entry.name: entry
    for entry in (
        movielens.LATEST,
        movielens.ML_1M,
        movielens.ML_100K,
        *table_directories.FORMATS,
        parquet.FORMAT,
        json_lines.FORMAT,
        generic_csv.CSV,
    )
}
_OTHER_COMPRESSIONS: Final = (".bz2", ".xz", ".lz4", ".lzma", ".br")
#: Files about items that have no header.
_ITEM_FILES: Final = ("movies.dat", "u.item")
_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.bz2")


def detect_format(path: str | Path) -> str:
    """Return the name of the format of a file or directory.

    Raises DataSetError for a missing path or an archive, and UnknownFormatError, which lists the
    known layouts, for anything else.
    """
    path = Path(path)
    if not path.exists():
        raise DataSetError(f"{path} does not exist. Check the path.")
    if path.is_file() and path.name.lower().endswith(_ARCHIVES):
        raise DataSetError(f"{path} is an archive. Unpack the archive and give the directory.")
    if path.is_file() and path.name.lower().endswith(_OTHER_COMPRESSIONS):
        raise DataSetError(f"{path} is neither gzip nor zstd. Decompress the file and import it.")
    if path.is_file() and path.suffix.lower() in {".xlsx", ".xls", ".ods"}:
        raise DataSetError(f"{path} is a spreadsheet. Save the table as CSV with UTF-8.")
    if path.is_file() and (plain_suffix(path) == ".item" or plain_name(path) in _ITEM_FILES):
        raise items_only_error(path)
    name = _matching_format(path)
    if name is None:
        raise UnknownFormatError(_unknown_format_message(path))
    return name


def _matching_format(path: Path) -> str | None:
    try:
        return next((entry.name for entry in FORMATS.values() if entry.recognizes(path)), None)
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}.") from error


def _unknown_format_message(path: Path) -> str:
    """Return an error message with the known layouts and any match inside the directory `path`."""
    layouts = "\n".join(f"  {entry.name}: {entry.layout}" for entry in FORMATS.values())
    hint = ""
    if path.is_dir():
        matches = ((child, _matching_format(child)) for child in sorted(path.iterdir())[:100])
        hint = "".join(f"\nDid you mean {child} ({name})?" for child, name in matches if name)
    return f"{path} holds no format that is known.{hint}\nKnown formats:\n{layouts}"


def read(
    path: str | Path,
    format: str = "auto",  # noqa: A002 -- the name of the CLI option
    progress: Progress | None = None,
    options: ReadOptions | None = None,
) -> tuple[Interactions, ReadReport]:
    """Read a data set and return its ratings and a report of rejected lines.

    `progress` is called repeatedly with (done, total), in bytes or rows. Raises DataSetError if the
    data set cannot be read, has no usable rating, or has another scale than the options say.
    """
    path = Path(path)
    name = detect_format(path) if format == "auto" else format
    if name not in FORMATS:
        raise UnknownFormatError(f"There is no format {name}. Use one of: {', '.join(FORMATS)}.")
    if not path.exists():
        raise DataSetError(f"{path} does not exist. Check the path.")
    options = options or ReadOptions()
    report = ReadReport(format=name)
    try:
        return FORMATS[name].read(path, report, progress, options), report
    except OtherTimeUnitError as error:
        options = replace(options, time_unit=error.unit, is_found=True)
    report = ReadReport(format=name)
    return FORMATS[name].read(path, report, progress, options), report
