"""Decide which texts about items in the rows of ratings describe the item, not the rating's user.

A title column may be the heading of each user's review. A text is therefore taken for an item only
if rows of two users carry it, and a column with different texts for one item is not taken at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.datasets.read_report import ReadReport

    #: Attribute name → values. Titles are values of one attribute, too.
    Values = dict[str, tuple[str, ...]]

_ADVICE = "import the descriptions from a catalog file or with POST /items"


@dataclass(slots=True)
class _First:
    """The first text about an item, the user of its row, and whether another user confirmed it."""

    text: str
    user: int
    is_confirmed: bool = False
    differs: bool = False


class RowTexts:
    """Collect one column of texts about items; an empty text or parse result is no value."""

    def __init__(self, column: str, parse: Callable[[str], Values]) -> None:
        self._column = column
        self._parse = parse
        #: Item → the first text only, because a file may have millions of rows.
        self._first: dict[int, _First] = {}

    def take(self, item: int, user: int, text: str) -> None:
        """Compare the text of a row with the first text about the same item."""
        if not text:
            return
        first = self._first.get(item)
        if first is None:
            if self._parse(text):
                self._first[item] = _First(text, user)
        elif text == first.text or self._has_equal_value(first, text):
            first.is_confirmed |= user != first.user

    def _has_equal_value(self, first: _First, text: str) -> bool:
        value = self._parse(text)
        if not value:
            return False
        is_equal = _unordered(value) == _unordered(self._parse(first.text))
        first.differs |= not is_equal
        return is_equal

    def accepted(self, report: ReadReport) -> dict[int, Values]:
        """Return item → value, and note in the report what is not taken."""
        differing = sum(first.differs for first in self._first.values())
        if differing:
            report.notes.append(
                f"the column {self._column} was not taken: its rows differ for {differing:,} "
                f"items, so it does not describe items; {_ADVICE}"
            )
            return {}
        values = {
            item: self._parse(first.text)
            for item, first in self._first.items()
            if first.is_confirmed
        }
        if len(values) < len(self._first):
            report.notes.append(
                f"the column {self._column} was not taken for {len(self._first) - len(values):,} "
                f"items, because rows of only one user have it; {_ADVICE}"
            )
        return values


def _unordered(values: Values) -> dict[str, frozenset[str]]:
    return {name: frozenset(entries) for name, entries in values.items()}
