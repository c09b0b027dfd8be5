"""Read MovieLens `ml-100k`: u.data, u.item and, if present, u.genre and u.user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.datasets.errors import RejectedLineError
from models.datasets.formats import Format
from models.datasets.movielens import (
    demographics,
    directory_with,
    fields_of,
    genre_attribute,
    require_directory,
)
from models.datasets.table import TableBuilder
from models.datasets.text_files import consume
from models.datasets.values import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_FILES = ("u.data", "u.item")
#: The number of fields of u.item between the title and the flags: two dates and a URL.
_SKIPPED_FIELDS: Final = 3
#: The genres in the order of the flags of u.item, used without u.genre.
_GENRES: Final = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def _read(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read the directory; items, rated or not, keep the order of u.item."""
    directory = require_directory(path, *_FILES)
    table = TableBuilder(report, open_catalog=False)
    genres = _read_genres(directory, report)

    def add_movie(line: str) -> None:
        # Split from both ends, because only a title can contain the separator.
        item_id, _, rest = line.partition("|")
        after_title = _SKIPPED_FIELDS + len(genres)
        parts = fields_of(rest.rsplit("|", after_title), after_title + 1)
        flags = parts[-len(genres) :]
        if any(flag not in {"0", "1"} for flag in flags):
            raise RejectedLineError("a genre flag is neither 0 nor 1")
        names = [name for name, flag in zip(genres, flags, strict=True) if flag == "1"]
        table.add_item(item_id, one_line(parts[0]), genre_attribute(names))

    def add_user(line: str) -> None:
        # The last field, the zip code, is personal data that no model uses.
        user_id, age, gender, occupation, _ = fields_of(line.split("|"), 5)
        table.add_user(user_id, demographics(gender, age, occupation))

    def add_rating(line: str) -> None:
        table.add_rating(*fields_of(line.split("\t"), 4))

    consume(directory / "u.item", report, add_movie)
    if (directory / "u.user").is_file():
        consume(directory / "u.user", report, add_user)
    else:
        report.notes.append("u.user is missing: users have no attributes")
    consume(directory / "u.data", report, add_rating, progress)
    return table.finish(directory)


def _read_genres(directory: Path, report: ReadReport) -> Sequence[str]:
    """Return the genres of u.genre, or the default genres, in the order of their flags."""
    path = directory / "u.genre"
    if not path.is_file():
        return _GENRES
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
        return _GENRES
    return tuple(names[number] for number in range(len(names)))


FORMAT = Format(
    name="movielens-100k",
    layout="a directory with u.data and u.item (MovieLens ml-100k)",
    recognizes=lambda path: directory_with(path, *_FILES) is not None,
    read=_read,
)
