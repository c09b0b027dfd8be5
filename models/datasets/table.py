"""Builds the Interactions table row by row: interns ids, checks values, settles duplicates."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.values import (
    MAX_TIMESTAMP,
    natural_order,
    parse_id,
    parse_stars,
    parse_timestamp,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.datasets.read_report import ReadReport


class TableBuilder:
    """Collects ratings and what is known of users and items.

    With `open_catalogue` an item exists because it is rated, and the items are put in the order of
    their ids at the end: the order of first rating would tell who rated first. Otherwise every
    item must have been added before, and the order of adding is kept.
    """

    def __init__(self, report: ReadReport, *, open_catalog: bool) -> None:
        self._report = report
        self._open = open_catalog
        self._users: list[UserRecord] = []
        self._items: list[ItemRecord] = []
        #: The texts as they stand in the file → index, so that known ids are checked once.
        self._user_index: dict[str, int] = {}
        self._item_index: dict[str, int] = {}
        self._stars: dict[str, float] = {}
        self._columns = (array("i"), array("i"), array("f"), array("q"))

    def add_item(self, item_id: str, title: str, attributes: Mapping[str, tuple[str, ...]]) -> None:
        """Add an item to the catalogue; a second line about the same item is rejected."""
        identity = parse_id(item_id, "item")
        if identity in self._item_index:
            raise RejectedLineError("the item is listed twice; its first line counts")
        self._item_index[identity] = len(self._items)
        self._items.append(ItemRecord(id=identity, title=title, attributes=dict(attributes)))
        self._report.described += 1

    def add_user(self, user_id: str, attributes: Mapping[str, str]) -> None:
        """Add a person; a second line about the same person is rejected."""
        identity = parse_id(user_id, "user")
        if identity in self._user_index:
            raise RejectedLineError("the user is listed twice; the first line counts")
        self._user_index[identity] = len(self._users)
        self._users.append(UserRecord(id=identity, attributes=dict(attributes)))
        self._report.described += 1

    def add_rating(self, user_id: str, item_id: str, rating: str, timestamp: str) -> int:
        """Check and add one rating and return its item's index; raises RejectedLineError."""
        stars = self._stars.get(rating)
        if stars is None:
            stars = self._stars[rating] = parse_stars(rating)
        # Plain digits are by far the most frequent.
        if timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("4102444800"):
            seconds = int(timestamp)
            if seconds > MAX_TIMESTAMP:
                seconds = parse_timestamp(timestamp)
        else:
            seconds = parse_timestamp(timestamp)
        # Ids are interned last: a rejected line must not leave a user or an item behind.
        item = self._item_index.get(item_id)
        user = self._user_index.get(user_id)
        if item is None or user is None:
            user, item = self._intern(user_id, item_id)
        users, items, ratings, timestamps = self._columns
        users.append(user)
        items.append(item)
        ratings.append(stars)
        timestamps.append(seconds)
        return item

    def _intern(self, user_text: str, item_text: str) -> tuple[int, int]:
        """Return the indices of ids that were not met in this spelling yet."""
        user_id, item_id = parse_id(user_text, "user"), parse_id(item_text, "item")
        item = self._item_index.get(item_id)
        if item is None:
            if not self._open:
                raise RejectedLineError("the rated item is not in the catalogue")
            item = self._item_index[item_id] = len(self._items)
            self._items.append(ItemRecord(id=item_id, title=""))
        user = self._user_index.get(user_id)
        if user is None:
            user = self._user_index[user_id] = len(self._users)
            self._users.append(UserRecord(id=user_id))
        return user, item

    def describe_item(
        self, item: int, title: str, attributes: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Fill in what is not yet known of an item; the first line that says something counts."""
        known = self._items[item]
        if (title and not known.title) or (attributes and not known.attributes):
            self._items[item] = ItemRecord(
                id=known.id,
                title=known.title or title,
                attributes=known.attributes or dict(attributes),
            )

    def describe_last_user(self, attributes: Mapping[str, str]) -> None:
        """Fill in what is not yet known of the person of the last rating."""
        index = self._columns[0][-1]
        known = self._users[index]
        if any(name not in known.attributes for name in attributes):
            merged = {**attributes, **known.attributes}
            self._users[index] = UserRecord(id=known.id, attributes=merged)

    def item_index(self, item_id: str) -> int | None:
        """Return the index of an item, None where it is not known."""
        return self._item_index.get(item_id)

    def finish(self, path: Path) -> Interactions:
        """Settle duplicates and return the table; raises DataSetError where nothing was taken."""
        user, item = (np.frombuffer(column, np.int32) for column in self._columns[:2])
        rating = np.frombuffer(self._columns[2], np.float32)
        timestamp = np.frombuffer(self._columns[3], np.int64)
        if not len(user):
            raise DataSetError(_nothing_accepted(path, self._report))
        rows = _latest_rows(user, item, timestamp)
        self._report.accepted = len(rows)
        self._report.duplicates = len(user) - len(rows)
        items, item = self._in_order(item)
        return Interactions(
            users=tuple(self._users),
            items=items,
            user=user[rows],
            item=item[rows],
            rating=rating[rows],
            timestamp=timestamp[rows],
        )

    def _in_order(
        self, item: NDArray[np.int32]
    ) -> tuple[tuple[ItemRecord, ...], NDArray[np.int32]]:
        """Return the items in their final order, untitled ones under their id, and the column."""
        records = [
            record
            if record.title
            else ItemRecord(id=record.id, title=record.id, attributes=record.attributes)
            for record in self._items
        ]
        if not self._open:
            return tuple(records), item
        order = sorted(range(len(records)), key=lambda index: natural_order(records[index].id))
        new_index = np.empty(len(order), np.int32)
        new_index[order] = np.arange(len(order), dtype=np.int32)
        return tuple(records[index] for index in order), new_index[item]


def _latest_rows(
    user: NDArray[np.int32], item: NDArray[np.int32], timestamp: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return, in reading order, the rows that no later row of the same user and item replaces.

    Of two at the same instant the one further down wins.
    """
    pair = user.astype(np.int64) << 32 | item
    order = np.lexsort((timestamp, pair))  # stable: reading order decides between equals
    is_last = np.append(pair[order][1:] != pair[order][:-1], True)
    return np.sort(order[is_last])


def _nothing_accepted(path: Path, report: ReadReport) -> str:
    reasons = "; ".join(
        f"{group.count:,} times {reason} (first: {group.examples[0].file}:{group.examples[0].line})"
        for reason, group in report.rejected_by_reason()[:3]
    )
    if not reasons:
        return f"{path} holds no ratings."
    return f"{path} holds no rating that can be used. Rejected: {reasons}."
