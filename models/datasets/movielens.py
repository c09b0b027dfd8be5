"""Read the three layouts of MovieLens.

- LATEST: `ml-latest*`, `ml-20m`, `ml-25m` and `ml-32m`, with ratings.csv and movies.csv.
- ML_1M: `ml-1m` and `ml-10m`, with ratings.dat, movies.dat and optionally users.dat.
- ML_100K: `ml-100k`, with u.data, u.item and optionally u.genre and u.user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.datasets.column_names import find_columns
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.formats import Format
from models.datasets.generic_csv import read_rating_rows, read_rows
from models.datasets.options import ReadOptions
from models.datasets.table import TableBuilder
from models.datasets.text_files import consume
from models.datasets.values import demographics, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_UNKNOWN_GENRES: Final = frozenset({"", "(no genres listed)", "unknown"})


def _directory_with(path: Path, *names: str) -> Path | None:
    """Return the directory with all these files, or None; `path` may be the first file itself."""
    directory = path.parent if path.name == names[0] and path.is_file() else path
    return directory if all((directory / name).is_file() for name in names) else None


def _require_directory(path: Path, *names: str) -> Path:
    """Return the directory with all these files; raises DataSetError listing missing files."""
    directory = _directory_with(path, *names)
    if directory is None:
        base = path if path.is_dir() else path.parent
        missing = ", ".join(name for name in names if not (base / name).is_file())
        raise DataSetError(f"{base} lacks {missing}. Give the directory of the unpacked archive.")
    return directory


def _fields_of(parts: list[str], expected: int) -> list[str]:
    """Return `parts`; raises RejectedLineError unless there are `expected` of them."""
    if len(parts) != expected:
        raise RejectedLineError(f"the line does not have {expected} fields")
    return parts


def _genre_attribute(genres: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the attribute `genre`, or no attribute if no genre is known."""
    known = tuple(g for g in dict.fromkeys(map(str.strip, genres)) if g not in _UNKNOWN_GENRES)
    return {"genre": known} if known else {}


_LATEST_FILES = ("ratings.csv", "movies.csv")


def _read_latest(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read the directory; items, rated or not, keep the order of movies.csv.

    The files may have more columns, another order or another separator.
    """
    directory = _require_directory(path, *_LATEST_FILES)
    table = TableBuilder(report, options, open_catalog=False)
    movies = directory / "movies.csv"
    tables = ReadOptions(encoding=options.encoding)

    def open_movies(_: str, header: list[str]) -> Callable[[Sequence[str]], None]:
        columns = find_columns(header, tables)
        if "item" not in columns:
            raise DataSetError(f"{movies} has no column for: item, such as movieId.")

        def add_movie(row: Sequence[str]) -> None:
            fields = {meaning: row[position] for meaning, position in columns.items()}
            genres = _genre_attribute(fields.get("genres", "").split("|"))
            table.add_item(fields["item"], one_line(fields.get("title", "")), genres)

        return add_movie

    read_rows(movies, report, tables, open_movies)
    read_rating_rows(directory / "ratings.csv", table, report, options, progress)
    return table.finish(directory)


LATEST = Format(
    name="movielens-latest",
    layout="a directory with movies.csv and ratings.csv (MovieLens ml-latest*, ml-20m to ml-32m)",
    recognizes=lambda path: _directory_with(path, *_LATEST_FILES) is not None,
    read=_read_latest,
)

_1M_FILES = ("ratings.dat", "movies.dat")
_1M_SEPARATOR = "::"
_TWITTER_FIELDS: Final = 2

#: Occupations by their code in users.dat, from the data set's README. Code 0, "other or not
#: specified", gives no attribute.
_1M_OCCUPATIONS: Final = {
    "0": "",
    "1": "academic/educator",
    "2": "artist",
    "3": "clerical/admin",
    "4": "college/grad student",
    "5": "customer service",
    "6": "doctor/health care",
    "7": "executive/managerial",
    "8": "farmer",
    "9": "homemaker",
    "10": "K-12 student",
    "11": "lawyer",
    "12": "programmer",
    "13": "retired",
    "14": "sales/marketing",
    "15": "scientist",
    "16": "self-employed",
    "17": "technician/engineer",
    "18": "tradesman/craftsman",
    "19": "unemployed",
    "20": "writer",
}


def _read_1m(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read the directory; items, rated or not, keep the order of movies.dat."""
    directory = _require_directory(path, *_1M_FILES)
    table = TableBuilder(report, options, open_catalog=False)

    def add_movie(line: str) -> None:
        # Split from both ends, because only a title can contain the separator.
        item_id, _, rest = line.partition(_1M_SEPARATOR)
        title, separator, genres = rest.rpartition(_1M_SEPARATOR)
        if not separator:
            raise RejectedLineError("the line does not have 3 fields")
        table.add_item(item_id, one_line(title), _genre_attribute(genres.split("|")))

    def add_user(line: str) -> None:
        # The last field, the zip code, is personal data that no model uses.
        parts = line.split(_1M_SEPARATOR)
        if len(parts) == _TWITTER_FIELDS:  # MovieTweetings has the names of accounts instead.
            report.described += 1
            return
        user_id, gender, age, occupation, _ = _fields_of(parts, 5)
        # The code of an age is the first year of its bracket; "1" means under 18.
        occupation = _1M_OCCUPATIONS.get(occupation.strip(), "")
        table.add_user(user_id, demographics(gender, age, occupation))

    def add_rating(line: str) -> None:
        table.add_rating(*_fields_of(line.split(_1M_SEPARATOR), 4))

    consume(directory / "movies.dat", report, add_movie, encoding=options.encoding)
    if (directory / "users.dat").is_file():
        consume(directory / "users.dat", report, add_user, encoding=options.encoding)
    else:
        report.notes.append("users.dat is missing: users have no attributes")
    consume(directory / "ratings.dat", report, add_rating, progress, options.encoding)
    return table.finish(directory)


ML_1M = Format(
    name="movielens-1m",
    layout="a directory with ratings.dat, movies.dat and users.dat (MovieLens ml-1m, ml-10m)",
    recognizes=lambda path: _directory_with(path, *_1M_FILES) is not None,
    read=_read_1m,
)

_100K_FILES = ("u.data", "u.item")
#: The number of fields of u.item between the title and the flags: two dates and a URL.
_100K_SKIPPED_FIELDS: Final = 3
#: The genres in the order of the flags of u.item, used without u.genre.
_100K_GENRES: Final = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def _read_100k(
    path: Path, report: ReadReport, progress: Progress | None, options: ReadOptions
) -> Interactions:
    """Read the directory; items, rated or not, keep the order of u.item."""
    directory = _require_directory(path, *_100K_FILES)
    table = TableBuilder(report, options, open_catalog=False)
    genres = _read_genres(directory, report)

    def add_movie(line: str) -> None:
        # Split from both ends, because only a title can contain the separator.
        item_id, _, rest = line.partition("|")
        after_title = _100K_SKIPPED_FIELDS + len(genres)
        parts = _fields_of(rest.rsplit("|", after_title), after_title + 1)
        flags = parts[-len(genres) :]
        if any(flag not in {"0", "1"} for flag in flags):
            raise RejectedLineError("a genre flag is neither 0 nor 1")
        names = [name for name, flag in zip(genres, flags, strict=True) if flag == "1"]
        table.add_item(item_id, one_line(parts[0]), _genre_attribute(names))

    def add_user(line: str) -> None:
        # The last field, the zip code, is personal data that no model uses.
        user_id, age, gender, occupation, _ = _fields_of(line.split("|"), 5)
        table.add_user(user_id, demographics(gender, age, occupation))

    def add_rating(line: str) -> None:
        table.add_rating(*_fields_of(line.split("\t"), 4))

    consume(directory / "u.item", report, add_movie, encoding=options.encoding)
    if (directory / "u.user").is_file():
        consume(directory / "u.user", report, add_user, encoding=options.encoding)
    else:
        report.notes.append("u.user is missing: users have no attributes")
    consume(directory / "u.data", report, add_rating, progress, options.encoding)
    return table.finish(directory)


def _read_genres(directory: Path, report: ReadReport) -> Sequence[str]:
    """Return the genres of u.genre, or the default genres, in the order of their flags."""
    path = directory / "u.genre"
    if not path.is_file():
        return _100K_GENRES
    names: dict[int, str] = {}

    def add_genre(line: str) -> None:
        name, _, number = line.partition("|")
        if not (number.strip().isascii() and number.strip().isdigit()):
            raise RejectedLineError("the genre has no number")
        names[int(number)] = name
        report.described += 1

    consume(path, report, add_genre)
    if sorted(names) != list(range(len(names))):
        report.notes.append("u.genre does not number the genres from 0; default genres are used")
        return _100K_GENRES
    return tuple(names[number] for number in range(len(names)))


ML_100K = Format(
    name="movielens-100k",
    layout="a directory with u.data and u.item (MovieLens ml-100k)",
    recognizes=lambda path: _directory_with(path, *_100K_FILES) is not None,
    read=_read_100k,
)
