"""Map the column names of CSV and Parquet files to their meanings, and read rows by meaning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.table import TITLE
from models.datasets.values import (
    check_limits,
    check_text,
    check_texts,
    demographics,
    is_missing,
    is_surely_within_limits,
    one_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.datasets.options import ReadOptions
    from models.datasets.row_texts import Values
    from models.datasets.table import TableBuilder

#: The accepted names of each meaning, preferred first, in lower case and without other than letters
#: and digits. Amazon, Book-Crossing, goodbooks, RecBole, Steam, Yelp and others are among them.
_NAMES: Final = {
    "user": (
        *("userid", "user", "uid", "useridx", "userindex", "reviewerid", "customerid", "memberid"),
        *("visitorid", "accountid", "username", "profileid", "personid", "customer", "reviewer"),
    ),
    "item": (
        *("itemid", "item", "iid", "itemidx", "movieid", "bookid", "parentasin", "asin", "isbn"),
        *("productid", "businessid", "gameid", "appid", "animeid", "artistid", "trackid", "songid"),
        *(
            "newsid",
            "articleid",
            "videoid",
            "poiid",
            "recipeid",
            "product",
            "movie",
            "book",
            "game",
        ),
    ),
    "rating": (
        *(
            "rating",
            "stars",
            "score",
            "overall",
            "bookrating",
            "userrating",
            "ratingscore",
            "label",
            "val",
        ),
        *(
            "reviewscore",
            "reviewrating",
            "preference",
            "playcount",
            "plays",
            "listencount",
            "hours",
        ),
        *("weight", "count", "click", "clicks"),
    ),
    "timestamp": (
        *("timestamp", "unixreviewtime", "unixtime", "time", "datetime", "date", "createdat"),
        *("ratedat", "createdtime", "reviewtime", "eventtime", "ts", "dateupdated", "dateadded"),
        *("unixtimestamp", "timestampms", "updatedat"),
    ),
    "title": ("title", "itemtitle", "movietitle", "booktitle", "itemname", "originaltitle"),
    "genres": ("genres", "genre", "categories", "category"),
    "attributes": ("attributes",),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "occupation": ("occupation", "job"),
}
#: The names of rating columns that have counts or hours, which are never stars.
_COUNTS: Final = frozenset(
    {"playcount", "plays", "listencount", "hours", "weight", "count", "click", "clicks"}
)
_REQUIRED: Final = ("user", "item", "rating")
_USER_COLUMNS: Final = ("gender", "age", "occupation")
_MOST: Final = "1e308"
#: Names of columns have no digit first, and no characters of email addresses or JSON.
_HEADER_NAME: Final = re.compile(r"\s*\"?(?:[^\W\d][\w\s.:()/-]*)?\"?\s*")


def find_columns(header: Sequence[str], options: ReadOptions) -> dict[str, int]:
    """Return meaning → position for the columns with known or mapped names.

    RecBole writes the type after the name, as in `user_id:token`; the type has no meaning here.
    Raises DataSetError if a mapped name is not in the header.
    """
    if options.columns:
        return {meaning: n for n, meaning in enumerate(options.columns) if meaning}
    names_in_header = [simple_name(name) for name in header]
    positions: dict[str, int] = {}
    for meaning, names in _NAMES.items():
        name = next((name for name in names if name in names_in_header), None)
        if name is not None:
            positions[meaning] = names_in_header.index(name)
    for meaning, name in options.column_names.items():
        if simple_name(name) not in names_in_header:
            raise DataSetError(f"There is no column {name}, which --map gives for {meaning}.")
        position = names_in_header.index(simple_name(name))
        taken = {other: n for other, n in positions.items() if n != position}
        positions = {**taken, meaning: position}
    used = [header[position].strip().strip('"') for position in positions.values()]
    equal = next((name for name in used if _count(header, name) > 1), None)
    if equal is not None:
        raise DataSetError(
            f"There are several columns with the name {equal[:40]}. Rename all but one of them."
        )
    return positions


def _count(header: Sequence[str], name: str) -> int:
    return sum(other.strip().strip('"') == name for other in header)


def simple_name(name: str) -> str:
    """Return the name of a column in lower case, with letters and digits only."""
    return re.sub(r"[\W_]", "", name.strip().strip('"').partition(":")[0].lower())


def missing_columns(columns: dict[str, int], options: ReadOptions) -> list[str]:
    """Return the required meanings that have no column. Times are checked after reading."""
    required = [m for m in _REQUIRED if m != "rating" or options.implicit is None]
    return [meaning for meaning in required if meaning not in columns]


def check_counts(
    path: Path, names: Sequence[str], columns: dict[str, int], options: ReadOptions
) -> None:
    """Refuse a column of counts without an option: small counts would be taken for stars."""
    is_explained = options.scale is not None or options.implicit is not None
    if is_explained or options.columns or "rating" in options.column_names:
        return
    name = names[columns["rating"]].strip().strip('"')
    if simple_name(name) in _COUNTS:
        raise DataSetError(
            f"{path} cannot be imported, and nothing was stored. The column {name} seems to have "
            "counts or hours. Import with --implicit THRESHOLD, from which on an item counts as "
            f"liked, or with --map rating={name} if the column has ratings."
        )


def items_only_error(path: Path) -> DataSetError:
    """Return the error for a file that describes items."""
    return DataSetError(
        f"{path} describes items and has no ratings. Import the directory that has this file and "
        "the ratings, or store the items with POST /items."
    )


def missing_columns_error(
    path: Path, names: Sequence[str], columns: dict[str, int], options: ReadOptions
) -> DataSetError:
    """Return the error for a file without the required columns.

    The error quotes names only if the first line is a header: a line of data has personal data.
    """
    missing = missing_columns(columns, options)
    is_described = "item" in columns and ("title" in columns or "genres" in columns)
    if is_described and columns.keys().isdisjoint({"user", "rating", "timestamp"}):
        return items_only_error(path)
    if "timestamp" not in columns and options.no_timestamps is None:
        missing.append("timestamp")
    present = "its names are not known"
    # A value such as "book" in a line of data is a known name, too, but hardly two values are.
    if len(columns) > 1 and all(_HEADER_NAME.fullmatch(name) for name in names):
        present = "found: " + ", ".join(name.strip()[:40] for name in names[:12])
    return DataSetError(
        f"{path} has no column for: {', '.join(missing)}. The first line must name the columns, "
        f"for example user_id,item_id,rating,timestamp; {present}. Name other columns with --map, "
        "such as --map user=customer_id, and those of a file without a header with "
        "--columns, such as --columns user,item,rating,timestamp."
    )


class RowReader:
    """Add rows of text fields to a table."""

    def __init__(self, columns: dict[str, int], table: TableBuilder) -> None:
        self.columns = columns
        self._table = table
        self._user, self._item = columns["user"], columns["item"]
        self._rating, self._timestamp = columns.get("rating"), columns.get("timestamp")
        self._item_columns = {m: columns[m] for m in ITEM_COLUMNS if m in columns}
        self._has_user_columns = not columns.keys().isdisjoint(_USER_COLUMNS)

    def take(self, row: Sequence[str]) -> None:
        """Add the rating of a row, and the attributes of its item and user."""
        texts = {meaning: row[column] for meaning, column in self._item_columns.items()}
        if texts:
            texts = self._within_limits(texts)
        user_attributes: dict[str, str] = {}
        if self._has_user_columns:
            user_attributes = demographics(*self._fields(row, _USER_COLUMNS))
            check_texts("", user_attributes)
        self._table.add_rating(
            row[self._user],
            row[self._item],
            # Without a column of ratings, every row of implicit feedback is a use of the item.
            _MOST if self._rating is None else row[self._rating],
            None if self._timestamp is None else row[self._timestamp],
        )
        for meaning, text in texts.items():
            self._table.describe_rated_item(meaning, text, ITEM_COLUMNS[meaning])
        if user_attributes:
            self._table.describe_last_user(user_attributes)

    def _within_limits(self, texts: dict[str, str]) -> dict[str, str]:
        """Return the texts about an item, meaning → text, or none if one is beyond a limit.

        The rating is right, so only the texts are left out. Raises RejectedLineError for characters
        that no door accepts.
        """
        for text in texts.values():
            check_text(one_line(text))
        if all(map(is_surely_within_limits, texts.values())):
            return texts
        try:
            check_limits(*item_values(texts))
        except RejectedLineError as error:
            self._table.left_out.add(error.reason)
            return {}
        return texts

    def _fields(self, row: Sequence[str], meanings: tuple[str, ...]) -> list[str]:
        return [row[self.columns[m]] if m in self.columns else "" for m in meanings]


def item_values(texts: dict[str, str]) -> tuple[str, Values]:
    """Return the title and the attributes in the texts about an item, meaning → text."""
    values: Values = {}
    for meaning, parse in ITEM_COLUMNS.items():
        if meaning in texts and meaning != TITLE:
            values |= parse(texts[meaning])
    return one_line(texts.get(TITLE, "")), values


def title_value(text: str) -> Values:
    """Return the title, without line breaks, as the value of an attribute."""
    title = one_line(text)
    if is_missing(title):
        return {}
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
ITEM_COLUMNS: Final[dict[str, Callable[[str], Values]]] = {
    TITLE: title_value,
    "attributes": _pairs,
    "genres": _genres,
}
