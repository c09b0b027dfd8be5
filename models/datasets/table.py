"""Build the Interactions table row by row: map ids to indices, check values, drop duplicates."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.rating_column import MAX_MISFIT_SHARE, RatingColumn
from models.datasets.row_texts import LeftOutTexts, RowTexts
from models.datasets.row_times import drawn_times, latest_rows
from models.datasets.time_column import TimeColumn
from models.datasets.unreadable import LineCount, UnreadableValues
from models.datasets.values import (
    MalformedIdError,
    check_texts,
    is_rounded_id,
    is_whole_float,
    natural_order,
    parse_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport
    from models.datasets.row_texts import Values

#: The column whose texts become titles; the texts of all other columns become attributes.
TITLE: Final = "title"
_NO_TIMES: Final = (
    "There is no column for: timestamp. Name it with --map timestamp=COLUMN, or import without"
    " times: --no-timestamps random, or --no-timestamps order if the oldest ratings come first."
)


class TableBuilder:
    """Collect ratings, users and items.

    With `open_catalog`, a rating adds its item to the catalog, and the items are finally ordered by
    id, because the order of their first ratings would be personal data. Otherwise every item must
    be added before its ratings, and items keep that order.
    """

    def __init__(self, report: ReadReport, options: ReadOptions, *, open_catalog: bool) -> None:
        self._report = report
        self._options = options
        self._is_open = open_catalog
        self._users: list[UserRecord] = []
        self._items: list[ItemRecord] = []
        #: Ids by their text in the file, so that an id is checked only once.
        self._user_index: dict[str, int] = {}
        self._item_index: dict[str, int] = {}
        self._ratings = RatingColumn(report, options)
        self._times = TimeColumn(report, options)
        self._without_times = 0
        self._ignored_times = 0
        self._malformed_ids = UnreadableValues(report, options)
        self._rounded_ids = LineCount(report)
        self._columns = (array("i"), array("i"), array("f"), array("q"))
        self.left_out = LeftOutTexts(report)
        #: Column → its texts about items, in the rows of ratings.
        self._row_texts: dict[str, RowTexts] = {}

    def add_item(self, item_id: str, title: str, attributes: Mapping[str, tuple[str, ...]]) -> None:
        """Add an item to the catalog; raises RejectedLineError if the item exists.

        An item with texts that no door accepts is added without them before the error: a closed
        catalog would otherwise reject all ratings of the item as well.
        """
        identity = parse_id(item_id, "item")
        if identity in self._item_index:
            raise RejectedLineError("the item is listed twice; its first line counts")
        try:
            check_texts(title, attributes)
        except RejectedLineError:
            if not self._is_open:
                self._append(ItemRecord(id=identity, title=""))
            raise
        self._append(ItemRecord(id=identity, title=title, attributes=dict(attributes)))
        self._report.described += 1

    def _append(self, record: ItemRecord) -> int:
        """Add an item, and return its index."""
        index = self._item_index[record.id] = len(self._items)
        self._items.append(record)
        return index

    def add_user(self, user_id: str, attributes: Mapping[str, str]) -> None:
        """Add a user; raises RejectedLineError if the user exists."""
        identity = parse_id(user_id, "user")
        if identity in self._user_index:
            raise RejectedLineError("the user is listed twice; the first line counts")
        check_texts("", attributes)
        self._user_index[identity] = len(self._users)
        self._users.append(UserRecord(id=identity, attributes=dict(attributes)))
        self._report.described += 1

    def add_rating(self, user_id: str, item_id: str, rating: str, timestamp: str | None) -> int:
        """Add a rating and return its item index; raises RejectedLineError for invalid fields.

        A rating without a time gets one at the end, see `NoTimestamps`.
        """
        stars = self._ratings.stars(rating)
        if timestamp is None or self._options.no_timestamps is not None:
            self._without_times += 1
            self._ignored_times += timestamp is not None
            seconds = 0
        else:
            seconds = self._times.seconds(timestamp)
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
        for text, kind in ((user_text, "user"), (item_text, "item")):
            if is_rounded_id(text):
                self._rounded_ids.add()
                raise RejectedLineError(f"the {kind} id is a rounded number, as 1.5E+15")
        try:
            user_id, item_id = parse_id(user_text, "user"), parse_id(item_text, "item")
        except MalformedIdError:
            self._malformed_ids.add()
            raise
        item = self._item_index.get(item_id)
        if item is None:
            if not self._is_open:
                raise RejectedLineError("the rated item is not in the catalog")
            item = self._append(ItemRecord(id=item_id, title="", from_ratings=True))
        user = self._user_index.get(user_id)
        if user is None:
            user = self._user_index[user_id] = len(self._users)
            self._users.append(UserRecord(id=user_id))
        if is_whole_float(user_text) or is_whole_float(item_text):
            self._note_once("ids such as 42.0 were read as whole numbers, 42")
        if user_id[0] == user_id[-1] == "'" or item_id[0] == item_id[-1] == "'":
            self._note_once(
                "ids are in single quotes, which belong to the ids at every door; if the quotes "
                "only enclose fields, replace them by double quotes"
            )
        return user, item

    def _note_once(self, note: str) -> None:
        """Add a note to the report unless the report has it."""
        if note not in self._report.notes:
            self._report.notes.append(note)

    def describe_item(
        self, item: int, title: str, attributes: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Set the title and the attributes of an item from a catalog file; the first line counts.

        An item with a line in a catalog file is in the catalog, even if ratings named it first.
        """
        check_texts(title, attributes)
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
            texts = self._row_texts[column] = RowTexts(column, parse, self._author)
        texts.take(self._columns[1][-1], self._columns[0][-1], text)

    def _author(self, user: int, item: int) -> str | None:
        return self._options.author(self._users[user].id, self._items[item].id)

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
        self._check(path, len(user))
        timestamp = np.frombuffer(self._columns[3], np.int64)
        if self._options.no_timestamps is not None:
            timestamp = drawn_times(user, self._options, self._report, self._ignored_times)
        rows = latest_rows(user, item, timestamp)
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

    def _check(self, path: Path, accepted: int) -> None:
        """Raise DataSetError with every obstacle, or OtherTimeUnitError."""
        obstacles = [self._ratings.obstacle(accepted)]
        if self._without_times and self._options.no_timestamps is None:
            obstacles.append(_NO_TIMES)
        obstacles += self._obstacles_of_ids(accepted)
        if not any(obstacles):
            # The times may be unreadable only because the unit is another one, so these come last.
            times = np.frombuffer(self._columns[3], np.int64)
            obstacles = [self._times.obstacle(accepted) or self._times.doubt(times)]
        if any(obstacles):
            raise DataSetError(
                f"{path} cannot be imported, and nothing was stored. "
                + " ".join(filter(None, obstacles))
            )
        if not accepted:
            raise DataSetError(self._report.no_ratings_message(path))
        self._ratings.note()
        self._times.note(accepted)

    def _obstacles_of_ids(self, accepted: int) -> list[str]:
        """Return why the ids cannot be imported, as sentences."""
        obstacles = []
        rounded, malformed = self._rounded_ids, self._malformed_ids
        if rounded.count > MAX_MISFIT_SHARE * (accepted + rounded.count):
            obstacles.append(
                f"{rounded.count:,} ids are rounded numbers, as 1.5E+15 (first: "
                f"{rounded.first}), so several ids may have become one. Export the column "
                "as text."
            )
        if malformed.are_too_many(accepted):
            obstacles.append(
                f"{malformed.count:,} ids are too long or have characters that are not printable "
                f"(first: {malformed.first}). Give the columns of the ids with --map "
                f"user=COLUMN,item=COLUMN, or correct these ids.{malformed.advice(accepted)}"
            )
        return obstacles

    def _describe_from_rows(self) -> None:
        """Describe the items that no catalog file lists by the accepted texts of their rows."""
        self.left_out.note()
        accepted = {name: texts.accepted(self._report) for name, texts in self._row_texts.items()}
        for column, texts in accepted.items():
            for item, values in texts.confirmed.items():
                if self._items[item].from_ratings:
                    self._items[item] = _described(self._items[item], column, values)
        for column, texts in accepted.items():
            for item, (values, user) in texts.of_one_user.items():
                record, user_id = self._items[item], self._users[user].id
                # A description is of one user or of several: a deletion of one user's texts must
                # not delete the texts of others.
                is_bare = not (record.title or record.attributes)
                if record.from_ratings and (is_bare or record.described_by == user_id):
                    record = _described(record, column, values)
                    self._items[item] = replace(record, described_by=user_id)

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


def _described(record: ItemRecord, column: str, values: Values) -> ItemRecord:
    """Return the record with the values of a column."""
    if column == TITLE:
        return replace(record, title=values[TITLE][0])
    return replace(record, attributes={**record.attributes, **values})
