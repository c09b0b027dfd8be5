"""Decide which texts about items in the rows of ratings describe the item, not the rating's user.

A title column may be the heading of each user's review. A column whose texts differ for more than
one in a hundred items is therefore not taken at all, and otherwise not for these items. A text that
rows of only one user carry is taken together with the user, so that the text can be deleted with
the user's data. Spellings of one user's id are one author, and forgotten users are no authors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from models.datasets.unreadable import LineCount
from models.datasets.values import is_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.datasets.read_report import ReadReport

    #: Attribute name → values. Titles are values of one attribute, too.
    Values = dict[str, tuple[str, ...]]

#: Share of differing items, of those whose texts can be compared, up to which a column has errors.
_MAX_DIFFERING: Final = 0.01
_ADVICE: Final = "import the descriptions from a catalog file or with POST /items"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTexts:
    """What one column says about items: item → value, from rows of several users or of one user.

    `of_one_user` also has the user.
    """

    confirmed: dict[int, Values] = field(default_factory=dict)
    of_one_user: dict[int, tuple[Values, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _First:
    """The first text about an item, its author, and whether another author confirmed the text."""

    text: str
    user: int
    author: str
    is_confirmed: bool = False
    differs: bool = False


class RowTexts:
    """Collect one column of texts about items; an empty text or parse result is no value."""

    def __init__(
        self,
        column: str,
        parse: Callable[[str], Values],
        author: Callable[[int, int], str | None],
    ) -> None:
        """Take the parser of texts, and a function from (user, item) to the author of a row."""
        self._column = column
        self._parse = parse
        self._author = author
        #: Item → the first text only, because a file may have millions of rows.
        self._first: dict[int, _First] = {}

    def take(self, item: int, user: int, text: str) -> None:
        """Compare the text of a row with the first text about the same item."""
        if is_missing(text):
            return
        first = self._first.get(item)
        if first is None:
            author = self._author(user, item) if self._parse(text) else None
            if author is not None:
                self._first[item] = _First(text, user, author)
        elif (
            (text == first.text or self._has_equal_value(first, text))
            and not first.is_confirmed
            and user != first.user
        ):
            first.is_confirmed = self._author(user, item) not in {None, first.author}

    def _has_equal_value(self, first: _First, text: str) -> bool:
        value = self._parse(text)
        if not value:
            return False
        is_equal = _unordered(value) == _unordered(self._parse(first.text))
        first.differs |= not is_equal
        return is_equal

    def accepted(self, report: ReadReport) -> AcceptedTexts:
        """Return the texts to take, and note in the report what is not taken or may be deleted."""
        differing = sum(first.differs for first in self._first.values())
        confirmed = sum(first.is_confirmed for first in self._first.values())
        if differing > _MAX_DIFFERING * max(differing, confirmed):
            report.notes.append(
                f"the column {self._column} was not taken: its rows differ for {differing:,} "
                f"items, so it does not describe items; {_ADVICE}"
            )
            return AcceptedTexts()
        if differing:
            report.notes.append(
                f"the {self._column} of {differing:,} items was not taken, because its rows "
                f"differ; {_ADVICE}"
            )
        texts = AcceptedTexts()
        for item, first in self._first.items():
            if first.differs:
                continue
            if first.is_confirmed:
                texts.confirmed[item] = self._parse(first.text)
            else:
                texts.of_one_user[item] = self._parse(first.text), first.user
        if texts.of_one_user:
            report.notes.append(
                f"the {self._column} of {len(texts.of_one_user):,} items is from rows of one user "
                f"each: models do not read these texts, and a text is deleted with the ratings of "
                f"the item's users; to keep the texts, {_ADVICE}"
            )
        return texts


class LeftOutTexts:
    """Count rows of ratings whose texts about the item are beyond a limit and are not taken."""

    def __init__(self, report: ReadReport) -> None:
        self._report = report
        self._rows: dict[str, LineCount] = {}

    def add(self, reason: str) -> None:
        """Count the present line."""
        self._rows.setdefault(reason, LineCount(self._report)).add()

    def note(self) -> None:
        """Note the numbers of rows in the report."""
        for reason, rows in self._rows.items():
            self._report.notes.append(
                f"the texts about items in {rows.count:,} rows were not taken, but the ratings "
                f"were, because {reason} (first: {rows.first})"
            )


def _unordered(values: Values) -> dict[str, frozenset[str]]:
    return {name: frozenset(entries) for name, entries in values.items()}
