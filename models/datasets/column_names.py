"""Which column of a table of one's own is which, by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from models.datasets.movielens import demographics
from models.datasets.values import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.datasets.table import TableBuilder

#: Names as they are after lower-casing and dropping all but letters and digits.
_NAMES: Final = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid"),
    "item": ("itemid", "item", "movieid", "bookid", "productid", "asin", "isbn", "iid"),
    "rating": ("rating", "stars", "score"),
    "timestamp": ("timestamp", "time", "unixtime", "datetime", "date", "createdat", "ratedat"),
    "title": ("title", "itemtitle", "movietitle", "booktitle", "itemname"),
    "genres": ("genres", "genre", "categories", "category"),
    "attributes": ("attributes",),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "occupation": ("occupation", "job"),
}
REQUIRED: Final = ("user", "item", "rating", "timestamp")
_ABOUT_ITEMS: Final = ("title", "genres", "attributes")
_ABOUT_USERS: Final = ("gender", "age", "occupation")


def find_columns(header: Sequence[str]) -> dict[str, int]:
    """Return the meaning → position of the columns whose names are known."""
    plain = [re.sub(r"[\W_]", "", name.lower()) for name in header]
    found: dict[str, int] = {}
    for meaning, names in _NAMES.items():
        position = next((plain.index(name) for name in names if name in plain), None)
        if position is not None:
            found[meaning] = position
    return found


def missing(columns: dict[str, int]) -> list[str]:
    """Return the meanings without which there is no rating."""
    return [meaning for meaning in REQUIRED if meaning not in columns]


@dataclass(frozen=True, slots=True)
class RowReader:
    """Puts rows of texts into the table."""

    columns: dict[str, int]
    table: TableBuilder

    def take(self, row: Sequence[str]) -> None:
        """Add one rating and what its row says of the item and the person."""
        columns = self.columns
        item = self.table.add_rating(*(row[columns[meaning]] for meaning in REQUIRED))
        if any(meaning in columns for meaning in _ABOUT_ITEMS):
            title, genres, attributes = self._texts(row, _ABOUT_ITEMS)
            values = {**_pairs(attributes), **_values("genre", genres)}
            self.table.describe_item(item, one_line(title), values)
        if any(meaning in columns for meaning in _ABOUT_USERS):
            self.table.describe_last_user(demographics(*self._texts(row, _ABOUT_USERS)))

    def _texts(self, row: Sequence[str], meanings: tuple[str, ...]) -> list[str]:
        return [row[self.columns[m]] if m in self.columns else "" for m in meanings]


def _values(name: str, text: str) -> dict[str, tuple[str, ...]]:
    """Return the attribute with the values that stand in `text`, separated by bars."""
    values = tuple(dict.fromkeys(filter(None, map(one_line, text.split("|")))))
    values = tuple(value for value in values if value != "(no genres listed)")
    return {name: values} if values else {}


def _pairs(text: str) -> dict[str, tuple[str, ...]]:
    """Return the attributes of "author:Le Guin|language:en|author:Kroeber"."""
    found: dict[str, tuple[str, ...]] = {}
    for pair in text.split("|"):
        name, _, value = map(one_line, pair.partition(":"))
        if name and value:
            found[name] = (*found.get(name, ()), value)
    return found
