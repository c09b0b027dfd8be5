"""Map the column names of CSV and Parquet files to their meanings, and read rows by meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from models.datasets.table import TITLE
from models.datasets.values import demographics, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.datasets.row_texts import Values
    from models.datasets.table import TableBuilder

#: The accepted names of each meaning, in lower case and without other than letters and digits.
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
_REQUIRED: Final = ("user", "item", "rating", "timestamp")
_USER_COLUMNS: Final = ("gender", "age", "occupation")


def find_columns(header: Sequence[str]) -> dict[str, int]:
    """Return meaning → position for the columns with known names."""
    names_in_header = [re.sub(r"[\W_]", "", name.lower()) for name in header]
    positions: dict[str, int] = {}
    for meaning, names in _NAMES.items():
        name = next((name for name in names if name in names_in_header), None)
        if name is not None:
            positions[meaning] = names_in_header.index(name)
    return positions


def missing_columns(columns: dict[str, int]) -> list[str]:
    """Return the required meanings that have no column."""
    return [meaning for meaning in _REQUIRED if meaning not in columns]


@dataclass(frozen=True, slots=True)
class RowReader:
    """Add rows of text fields to a table."""

    columns: dict[str, int]
    table: TableBuilder

    def take(self, row: Sequence[str]) -> None:
        """Add the rating of a row, and the attributes of its item and user."""
        columns = self.columns
        self.table.add_rating(*(row[columns[meaning]] for meaning in _REQUIRED))
        for meaning, parse in _ITEM_COLUMNS.items():
            if meaning in columns:
                self.table.describe_rated_item(meaning, row[columns[meaning]], parse)
        if any(meaning in columns for meaning in _USER_COLUMNS):
            self.table.describe_last_user(demographics(*self._fields(row, _USER_COLUMNS)))

    def _fields(self, row: Sequence[str], meanings: tuple[str, ...]) -> list[str]:
        return [row[self.columns[m]] if m in self.columns else "" for m in meanings]


def title_value(text: str) -> Values:
    """Return the title, without line breaks, as the value of an attribute."""
    title = one_line(text)
    return {TITLE: (title,)} if title else {}


def _genres(text: str) -> Values:
    """Return the genres in `text`, which are separated by "|"."""
    values = tuple(dict.fromkeys(filter(None, map(one_line, text.split("|")))))
    values = tuple(value for value in values if value != "(no genres listed)")
    return {"genre": values} if values else {}


def _pairs(text: str) -> Values:
    """Parse attributes such as "author:Le Guin|language:en|author:Kroeber"."""
    attributes: Values = {}
    for pair in text.split("|"):
        name, _, value = map(one_line, pair.partition(":"))
        if name and value:
            attributes[name] = (*attributes.get(name, ()), value)
    return attributes


#: The columns about items, and the functions that parse their texts. Genres come last, because a
#: genre column replaces an attribute "genre" of the attributes column.
_ITEM_COLUMNS: Final[dict[str, Callable[[str], Values]]] = {
    TITLE: title_value,
    "attributes": _pairs,
    "genres": _genres,
}
