"""Read data sets of several delimited files with headers: ratings, perhaps items and users.

RecBole, goodbooks-10k and Book-Crossing have this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from models.datasets.column_names import ITEM_COLUMNS, find_columns, item_values
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.generic_csv import plain_name, plain_suffix, read_rating_rows, read_rows
from models.datasets.options import ReadOptions
from models.datasets.table import TableBuilder
from models.datasets.values import demographics, is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

#: In other files, a class is hardly a genre.
_GENRES_OF_ML_100K: Final = "class:token_seq"
_RECBOLE_SUFFIX: Final = ".inter"


@dataclass(frozen=True, slots=True)
class _Files:
    """The patterns of the files of a data set, in lower case."""

    ratings: tuple[str, ...]
    items: tuple[str, ...]
    users: tuple[str, ...] = ()


_RECBOLE: Final = _Files(("*.inter",), ("*.item",), ("*.user",))
_BOOK_CROSSING: Final = _Files(
    ("bx-book-ratings.csv", "bx_book_ratings.csv", "ratings.csv"),
    ("bx-books.csv", "bx_books.csv", "books.csv"),
    ("bx-users.csv", "bx_users.csv", "users.csv"),
)


#: RecBole's names of the parts of a data set, as in `ml-1m.train.inter`.
_PARTS: Final = (".train", ".valid", ".test")


def _data_set(path: Path) -> str:
    """Return the name of the RecBole data set to which the file belongs."""
    name = plain_name(path).rpartition(".")[0]
    for part in _PARTS:
        name = name.removesuffix(part)
    return name


def _find(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return all files of the directory with the suffix, or the first one with a name.

    Hidden files are left out: archives from macOS have a binary file `._NAME` beside each file.
    """
    paths = (path for path in directory.iterdir() if not path.name.startswith("."))
    files = sorted(path for path in paths if path.is_file())
    for pattern in patterns:
        suffix = pattern.removeprefix("*")
        if suffix != pattern:
            return [path for path in files if plain_name(path).endswith(suffix)]
        for path in files:
            if plain_name(path) == pattern:
                return [path]
    return []


def _find_ratings(files: _Files, path: Path) -> list[Path]:
    """Return the files of ratings, of one data set; raises DataSetError."""
    ratings = [path] if path.is_file() else _find(path, files.ratings)
    if not ratings:
        raise DataSetError(
            f"{path} lacks a file {files.ratings[0]}. Give the path of its directory."
        )
    names = sorted(set(map(_data_set, ratings)))
    if len(names) > 1:
        raise DataSetError(
            f"{path} has several data sets: {', '.join(names[:12])}. Give the path of one file."
        )
    return ratings


def _find_descriptions(ratings: Path, patterns: tuple[str, ...]) -> Path | None:
    """Return the file about items or users of the same data set, or else the only such file."""
    files = _find(ratings.parent, patterns)
    same = [path for path in files if _data_set(path) == _data_set(ratings)]
    if same or len(files) == 1:
        return (same or files)[0]
    return None


def _recognizes(files: _Files, path: Path) -> bool:
    if path.is_file():
        return files is _RECBOLE and plain_suffix(path) == _RECBOLE_SUFFIX
    if not path.is_dir() or not _find(path, files.ratings):
        return False
    return files is _RECBOLE or bool(_find(path, files.items))


def _read(
    files: _Files,
    path: Path,
    report: ReadReport,
    progress: Progress | None,
    options: ReadOptions,
) -> Interactions:
    """Read the files; items, rated or not, are ordered by id."""
    ratings = _find_ratings(files, path)
    table = TableBuilder(report, options, open_catalog=True)
    tables = ReadOptions(encoding=options.encoding)
    items = _find_descriptions(ratings[0], files.items)
    users = _find_descriptions(ratings[0], files.users)
    if items is not None:
        read_rows(items, report, tables, partial(_open_items, items, table))
    if users is not None:
        read_rows(users, report, tables, partial(_open_users, users, table))
    for file in ratings:
        read_rating_rows(file, table, report, options, progress)
    report.note_files(ratings)
    return table.finish(path)


def _open_items(
    path: Path, table: TableBuilder, delimiter: str, header: list[str]
) -> Callable[[Sequence[str]], None]:
    del delimiter
    columns = find_columns(header, ReadOptions())
    if "item" not in columns:
        raise DataSetError(f"{path} has no column for: item.")
    if "genres" not in columns and _GENRES_OF_ML_100K in header:
        columns["genres"] = header.index(_GENRES_OF_ML_100K)
    # RecBole separates the values of a sequence by blanks.
    is_sequence = {m: header[n].strip().endswith(":token_seq") for m, n in columns.items()}
    sequences = {m for m in ("genres", "attributes") if is_sequence.get(m)}

    def take(row: Sequence[str]) -> None:
        texts = {m: row[columns[m]] for m in ITEM_COLUMNS if m in columns}
        texts |= {m: texts[m].replace(" ", "|") for m in sequences}
        title, values = item_values(texts)
        table.add_item(row[columns["item"]], "" if is_missing(title) else title, values)

    return take


def _open_users(
    path: Path, table: TableBuilder, delimiter: str, header: list[str]
) -> Callable[[Sequence[str]], None]:
    del delimiter
    columns = find_columns(header, ReadOptions())
    if "user" not in columns:
        raise DataSetError(f"{path} has no column for: user.")

    def take(row: Sequence[str]) -> None:
        fields = [row[columns[m]] if m in columns else "" for m in ("gender", "age", "occupation")]
        if not any(fields):
            raise RejectedLineError("the user has no attributes")
        table.add_user(row[columns["user"]], demographics(*fields))

    return take


def _format(name: str, layout: str, files: _Files) -> Format:
    return Format(
        name=name, layout=layout, recognizes=partial(_recognizes, files), read=partial(_read, files)
    )


FORMATS: Final = (
    _format("recbole", "a RecBole file .inter, or a directory with .inter, .item, .user", _RECBOLE),
    _format(
        "book-crossing",
        "a directory with BX-Book-Ratings.csv and BX-Books.csv, or with ratings.csv and books.csv "
        "(Book-Crossing, goodbooks-10k)",
        _BOOK_CROSSING,
    ),
)
