"""Read MovieLens `ml-latest*`, `ml-20m`, `ml-25m` and `ml-32m`: movies.csv and ratings.csv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.datasets.delimited import split_line
from models.datasets.errors import DataSetError
from models.datasets.formats import Format
from models.datasets.movielens import (
    directory_with,
    fields_of,
    genre_attribute,
    require_directory,
)
from models.datasets.table import TableBuilder
from models.datasets.text_files import consume
from models.datasets.values import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress

_FILES = ("ratings.csv", "movies.csv")
_RATING_COLUMNS = ["userId", "movieId", "rating", "timestamp"]
_MOVIE_COLUMNS = ["movieId", "title", "genres"]


def _read(path: Path, report: ReadReport, progress: Progress | None) -> Interactions:
    """Read the directory; items, rated or not, keep the order of movies.csv."""
    directory = require_directory(path, *_FILES)
    table = TableBuilder(report, open_catalog=False)

    def add_movie(fields: list[str]) -> None:
        item_id, title, genres = fields
        table.add_item(item_id, one_line(title), genre_attribute(genres.split("|")))

    def add_rating(fields: list[str]) -> None:
        table.add_rating(*fields)

    _consume_csv(directory / "movies.csv", _MOVIE_COLUMNS, report, add_movie, None)
    _consume_csv(directory / "ratings.csv", _RATING_COLUMNS, report, add_rating, progress)
    return table.finish(directory)


def _consume_csv(
    path: Path,
    columns: list[str],
    report: ReadReport,
    take: Callable[[list[str]], None],
    progress: Progress | None,
) -> None:
    """Check the header and pass the fields of every other line to `take`."""
    header: list[str] | None = None

    def take_line(line: str) -> None:
        nonlocal header
        if header is None:
            header = [column.strip() for column in split_line(line, ",")]
            if header != columns:
                raise DataSetError(
                    f"{path} does not begin with the header {','.join(columns)}. "
                    "For other data, give the path of the file and --format csv."
                )
            report.lines -= 1
            return
        take(fields_of(split_line(line, ","), len(columns)))

    consume(path, report, take_line, progress)


FORMAT = Format(
    name="movielens-latest",
    layout="a directory with movies.csv and ratings.csv (MovieLens ml-latest*, ml-20m to ml-32m)",
    recognizes=lambda path: directory_with(path, *_FILES) is not None,
    read=_read,
)
