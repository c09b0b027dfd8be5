"""Read MovieLens `ml-1m` and `ml-10m`: ratings.dat, movies.dat and, if present, users.dat."""

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
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_FILES = ("ratings.dat", "movies.dat")
_USERS = "users.dat"
_SEPARATOR = "::"

#: Occupations by their code in users.dat, from the data set's README. Code 0, "other or not
#: specified", gives no attribute.
_OCCUPATIONS: Final = {
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


def _read(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read the directory; items, rated or not, keep the order of movies.dat."""
    directory = require_directory(path, *_FILES)
    table = TableBuilder(report, open_catalog=False)

    def add_movie(line: str) -> None:
        # Split from both ends, because only a title can contain the separator.
        item_id, _, rest = line.partition(_SEPARATOR)
        title, separator, genres = rest.rpartition(_SEPARATOR)
        if not separator:
            raise RejectedLineError("the line does not have 3 fields")
        table.add_item(item_id, one_line(title), genre_attribute(genres.split("|")))

    def add_user(line: str) -> None:
        # The last field, the zip code, is personal data that no model uses.
        user_id, gender, age, occupation, _ = fields_of(line.split(_SEPARATOR), 5)
        # The code of an age is the first year of its bracket; "1" means under 18.
        occupation = _OCCUPATIONS.get(occupation.strip(), "")
        table.add_user(user_id, demographics(gender, age, occupation))

    def add_rating(line: str) -> None:
        table.add_rating(*fields_of(line.split(_SEPARATOR), 4))

    consume(directory / "movies.dat", report, add_movie)
    if (directory / _USERS).is_file():
        consume(directory / _USERS, report, add_user)
    else:
        report.notes.append(f"{_USERS} is missing: users have no attributes")
    consume(directory / "ratings.dat", report, add_rating, progress)
    return table.finish(directory)


FORMAT = Format(
    name="movielens-1m",
    layout="a directory with ratings.dat, movies.dat and users.dat (MovieLens ml-1m, ml-10m)",
    recognizes=lambda path: directory_with(path, *_FILES) is not None,
    read=_read,
)
