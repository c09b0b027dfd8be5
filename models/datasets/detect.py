"""The registry of formats: which one a path holds, and how to read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.datasets import generic_csv, goodreads, movielens_1m, movielens_100k, movielens_latest
from models.datasets.errors import DataSetError, UnknownFormatError
from models.datasets.read_report import ReadReport

if TYPE_CHECKING:
    from models.data.interactions import Interactions
    from models.datasets.formats import Format
    from models.datasets.text_files import Progress

__all__ = ["FORMATS", "DataSetError", "UnknownFormatError", "detect_format", "read"]

#: In the order in which they are asked: the more particular layouts first.
FORMATS: Final[dict[str, Format]] = {
    known.name: known
    for known in (
        movielens_latest.FORMAT,
        movielens_1m.FORMAT,
        movielens_100k.FORMAT,
        generic_csv.PARQUET,
        goodreads.FORMAT,
        generic_csv.CSV,
    )
}
_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.bz2")


def detect_format(path: str | Path) -> str:
    """Return the name of the format that the path holds.

    Raises DataSetError for a path that does not exist or is an archive, and UnknownFormatError
    with the layouts that are known for anything else.
    """
    path = Path(path)
    if not path.exists():
        raise DataSetError(f"{path} does not exist. Check the path.")
    if path.is_file() and path.name.lower().endswith(_ARCHIVES):
        raise DataSetError(f"{path} is an archive. Unpack it and give the directory.")
    found = _first_match(path)
    if found is None:
        raise UnknownFormatError(_unknown(path))
    return found


def _first_match(path: Path) -> str | None:
    try:
        return next((name for name, known in FORMATS.items() if known.recognizes(path)), None)
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}.") from error


def _unknown(path: Path) -> str:
    """Say what was looked for, and where in `path` something known lies."""
    known = "\n".join(f"  {name}: {entry.layout}" for name, entry in FORMATS.items())
    hint = ""
    if path.is_dir():
        inside = ((entry, _first_match(entry)) for entry in sorted(path.iterdir())[:100])
        hint = "".join(f"\nDid you mean {entry} ({name})?" for entry, name in inside if name)
    return f"{path} holds no format that is known.{hint}\nKnown are:\n{known}"


def read(
    path: str | Path,
    format: str = "auto",  # noqa: A002 -- the name of the CLI's option
    progress: Progress | None = None,
) -> tuple[Interactions, ReadReport]:
    """Read a data set; `progress` is called with (done, total) now and then.

    Raises DataSetError where it cannot be read or nothing in it can be used.
    """
    path = Path(path)
    name = detect_format(path) if format == "auto" else format
    if name not in FORMATS:
        raise UnknownFormatError(f"There is no format {name}. Known are: {', '.join(FORMATS)}.")
    if not path.exists():
        raise DataSetError(f"{path} does not exist. Check the path.")
    report = ReadReport(format=name)
    return FORMATS[name].read(path, report, progress), report
