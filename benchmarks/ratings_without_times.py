"""Read ratings for the benchmarks, also from directories whose ratings have no times.

The product needs times. The benchmarks also read a directory with `ratings.csv` (user_id, an item
id, rating) and a catalog file beside it, for example `books.csv` of Book-Crossing with the columns
book_id, title, author and year. Ratings of 1 to 10 are halved to half stars, so more than 6 of 10
is liked.

**Drawn times.** Every user starts at a uniform time of the first nine tenths of the period and
rates in random order within a tenth of the period. The split by time therefore has, as other data
sets have, users whose ratings all come after the training period. The draw has a fixed seed.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.datasets.detect import read
from models.datasets.errors import DataSetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_RATINGS: Final = "ratings.csv"
_USER: Final = "user_id"
_RATING: Final = "rating"
#: Columns of the catalog that become attributes of items.
_ATTRIBUTES: Final = ("author",)
#: Length of the drawn period in seconds, and the share of it in which one user rates.
_PERIOD: Final = 365 * 24 * 3600
_SPAN: Final = 0.1
_HALF_STARS: Final = 10


def read_ratings(path: Path) -> Interactions:
    """Read a data set of any known format, or a directory of ratings without times.

    Raises DataSetError.
    """
    if _is_without_times(path):
        return _read(path)
    return read(path)[0]


def _is_without_times(path: Path) -> bool:
    ratings = path / _RATINGS
    if not ratings.is_file():
        return False
    with ratings.open(encoding="utf-8", newline="") as stream:
        header = next(csv.reader(stream), [])
    return len(header) == 3 and {_USER, _RATING} < set(header)  # noqa: PLR2004 -- and the item


def _read(path: Path) -> Interactions:
    rows = _records(path / _RATINGS)
    if not rows:
        raise DataSetError(f"{path / _RATINGS} has no ratings.")
    (item_column,) = set(rows[0]) - {_USER, _RATING}
    try:
        user_ids = [int(row[_USER]) for row in rows]
        item_ids = [row[item_column] for row in rows]
        half_stars = np.array([int(row[_RATING]) for row in rows])
    except (TypeError, ValueError) as error:
        raise DataSetError(f"{path / _RATINGS} has a row without whole numbers: {error}.") from None
    if half_stars.min() < 1 or half_stars.max() > _HALF_STARS:
        raise DataSetError(f"{path / _RATINGS} has ratings outside 1 to {_HALF_STARS}.")
    items = _catalog(path, item_column)
    index = {item.id: position for position, item in enumerate(items)}
    missing = next((item for item in item_ids if item not in index), None)
    if missing is not None:
        raise DataSetError(f"Item {missing} of {path / _RATINGS} is not in the catalog.")
    distinct, user = np.unique(user_ids, return_inverse=True)
    item = np.array([index[item] for item in item_ids], np.int32)
    _, first = np.unique(np.stack([user, item]), axis=1, return_index=True)
    return Interactions(
        users=tuple(UserRecord(id=str(number)) for number in distinct.tolist()),
        items=items,
        user=user[first].astype(np.int32),
        item=item[first],
        rating=(half_stars[first] / 2).astype(np.float32),
        timestamp=draw_times(user[first]),
    )


def draw_times(user: NDArray[Any]) -> NDArray[np.int64]:
    """Return [N] drawn times in seconds for ratings of [N] user indices; see the module."""
    generator = np.random.default_rng(0)
    start = generator.uniform(0, 1 - _SPAN, int(user.max()) + 1)
    within = generator.uniform(0, _SPAN, len(user))
    times: NDArray[np.int64] = np.floor((start[user] + within) * _PERIOD).astype(np.int64)
    return times


def _catalog(path: Path, item_column: str) -> tuple[ItemRecord, ...]:
    """Read the only other file with the item column and a title; raises DataSetError."""
    for file in sorted(path.glob("*.csv")):
        rows = _records(file) if file.name != _RATINGS else []
        if rows and {item_column, "title"} <= set(rows[0]):
            return tuple(
                ItemRecord(
                    id=row[item_column],
                    title=row["title"],
                    attributes={name: (row[name],) for name in _ATTRIBUTES if row.get(name)},
                )
                for row in rows
            )
    raise DataSetError(f"{path} has no catalog with the columns {item_column} and title.")


def _records(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
