"""Build the Interactions table row by row: map ids to indices, check values, drop duplicates."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.row_texts import RowTexts
from models.datasets.values import natural_order, parse_id, parse_stars, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.datasets.read_report import ReadReport
    from models.datasets.row_texts import Values

#: The column whose texts become titles; the texts of all other columns become attributes.
TITLE: Final = "title"


class TableBuilder:
    """Collect ratings, users and items.

    With `open_catalog`, a rating adds its item to the catalog, and the items are finally ordered by
    id, because the order of their first ratings would be personal data. Otherwise every item must
    be added before its ratings, and items keep that order.
    """

    def __init__(self, report: ReadReport, *, open_catalog: bool) -> None:
        self._report = report
        self._is_open = open_catalog
        self._users: list[UserRecord] = []
        self._items: list[ItemRecord] = []
        #: Ids by their text in the file, so that an id is checked only once.
        self._user_index: dict[str, int] = {}
        self._item_index: dict[str, int] = {}
        self._stars: dict[str, float] = {}
        self._columns = (array("i"), array("i"), array("f"), array("q"))
        #: Column → its texts about items, in the rows of ratings.
        self._row_texts: dict[str, RowTexts] = {}

    def add_item(self, item_id: str, title: str, attributes: Mapping[str, tuple[str, ...]]) -> None:
        """Add an item to the catalog; raises RejectedLineError if the item exists."""
        identity = parse_id(item_id, "item")
        if identity in self._item_index:
            raise RejectedLineError("the item is listed twice; its first line counts")
        self._item_index[identity] = len(self._items)
        self._items.append(ItemRecord(id=identity, title=title, attributes=dict(attributes)))
        self._report.described += 1

    def add_user(self, user_id: str, attributes: Mapping[str, str]) -> None:
        """Add a user; raises RejectedLineError if the user exists."""
        identity = parse_id(user_id, "user")
        if identity in self._user_index:
            raise RejectedLineError("the user is listed twice; the first line counts")
        self._user_index[identity] = len(self._users)
        self._users.append(UserRecord(id=identity, attributes=dict(attributes)))
        self._report.described += 1

    def add_rating(self, user_id: str, item_id: str, rating: str, timestamp: str) -> int:
        """Add a rating and return its item index; raises RejectedLineError for invalid fields."""
        stars = self._stars.get(rating)
        if stars is None:
            stars = self._stars[rating] = parse_stars(rating)
        seconds = parse_timestamp(timestamp)
        # Ids come last, so that a rejected line adds neither a user nor an item.
        item = self._item_index.get(item_id)
        user = self._user_index.get(user_id)
        if item is None or user is None:
            user, item = self._add_ids(user_id, item_id)
        users, items, ratings, timestamps = self._columns
        users.append(user)
        items.append(item)
        ratings.append(stars)
        timestamps.append(seconds)
        return item

    def _add_ids(self, user_text: str, item_text: str) -> tuple[int, int]:
        """Return the indices of a user and an item, of which at least one text is new."""
        user_id, item_id = parse_id(user_text, "user"), parse_id(item_text, "item")
        item = self._item_index.get(item_id)
        if item is None:
            if not self._is_open:
                raise RejectedLineError("the rated item is not in the catalog")
            item = self._item_index[item_id] = len(self._items)
            self._items.append(ItemRecord(id=item_id, title="", from_ratings=True))
        user = self._user_index.get(user_id)
        if user is None:
            user = self._user_index[user_id] = len(self._users)
            self._users.append(UserRecord(id=user_id))
        return user, item

    def describe_item(
        self, item: int, title: str, attributes: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Set the title and the attributes of an item from a catalog file; the first line counts.

        An item with a line in a catalog file is in the catalog, even if ratings named it first.
        """
        record = self._items[item]
        self._items[item] = replace(
            record,
            title=record.title or title,
            attributes=record.attributes or dict(attributes),
            from_ratings=False,
        )

    def describe_rated_item(self, column: str, text: str, parse: Callable[[str], Values]) -> None:
        """Take a text about the item of the last rating, from the same row.

        `RowTexts` decides at the end whether the column's texts describe items.
        """
        texts = self._row_texts.get(column)
        if texts is None:
            texts = self._row_texts[column] = RowTexts(column, parse)
        texts.take(self._columns[1][-1], self._columns[0][-1], text)

    def describe_last_user(self, attributes: Mapping[str, str]) -> None:
        """Add attributes to the user of the last rating; existing values are kept."""
        index = self._columns[0][-1]
        record = self._users[index]
        if any(name not in record.attributes for name in attributes):
            merged = {**attributes, **record.attributes}
            self._users[index] = replace(record, attributes=merged)

    def item_index(self, item_id: str) -> int | None:
        """Return the index of an item, or None if the item is unknown."""
        return self._item_index.get(item_id)

    def finish(self, path: Path) -> Interactions:
        """Return the table without duplicates; raises DataSetError if there are no ratings."""
        user, item = (np.frombuffer(column, np.int32) for column in self._columns[:2])
        rating = np.frombuffer(self._columns[2], np.float32)
        timestamp = np.frombuffer(self._columns[3], np.int64)
        if not len(user):
            raise DataSetError(_no_ratings_message(path, self._report))
        rows = _latest_rows(user, item, timestamp)
        self._report.accepted = len(rows)
        self._report.duplicates = len(user) - len(rows)
        self._describe_from_rows()
        items, item = self._ordered_items(item)
        return Interactions(
            users=tuple(self._users),
            items=items,
            user=user[rows],
            item=item[rows],
            rating=rating[rows],
            timestamp=timestamp[rows],
        )

    def _describe_from_rows(self) -> None:
        """Describe the items that no catalog file lists by the accepted texts of their rows."""
        for column, texts in self._row_texts.items():
            for item, values in texts.accepted(self._report).items():
                record = self._items[item]
                if not record.from_ratings:
                    continue
                if column == TITLE:
                    self._items[item] = replace(record, title=values[TITLE][0])
                else:
                    self._items[item] = replace(record, attributes={**record.attributes, **values})

    def _ordered_items(
        self, item: NDArray[np.int32]
    ) -> tuple[tuple[ItemRecord, ...], NDArray[np.int32]]:
        """Return the items in their final order and the item column with their new indices.

        An item without a title gets its id as title.
        """
        records = [replace(record, title=record.title or record.id) for record in self._items]
        if not self._is_open:
            return tuple(records), item
        order = sorted(range(len(records)), key=lambda index: natural_order(records[index].id))
        new_index = np.empty(len(order), np.int32)
        new_index[order] = np.arange(len(order), dtype=np.int32)
        return tuple(records[index] for index in order), new_index[item]


def _latest_rows(
    user: NDArray[np.int32], item: NDArray[np.int32], timestamp: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the last row by timestamp of every (user, item), in reading order.

    Of rows with equal timestamps, the last in reading order counts.
    """
    pair = user.astype(np.int64) << 32 | item
    order = np.lexsort((timestamp, pair))  # Stable: rows with equal timestamps keep reading order.
    is_last = np.append(pair[order][1:] != pair[order][:-1], True)
    return np.sort(order[is_last])


def _no_ratings_message(path: Path, report: ReadReport) -> str:
    reasons = "; ".join(
        f"{group.count:,} times {reason} (first: {group.examples[0].file}:{group.examples[0].line})"
        for reason, group in report.rejected_by_reason()[:3]
    )
    if not reasons:
        return f"{path} holds no ratings."
    return f"{path} holds no usable rating. Rejected: {reasons}."
