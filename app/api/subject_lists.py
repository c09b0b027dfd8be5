"""Read a list of user ids from a body in CSV, NDJSON or JSON, part by part.

A line that cannot be read is an invalid row and affects no other row. No message quotes a line.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import InvalidInputError, ListTooLongError
from app.domain.forget_lists import InvalidRow

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ROWS: Final = 100_000
#: An id has at most 200 characters; escapes and white space make a line longer.
MAX_LINE_BYTES: Final = 16 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_COLUMN: Final = "user_id"

Row = str | InvalidRow


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, without fields if a name is repeated.

    Python takes the last value of a repeated name. The users in the other values would be ignored.
    """
    values = dict(fields)
    return values if len(values) == len(fields) else {}


#: Integers are taken as their decimal text, because `int` refuses long ones.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=str)


class ListReader(ABC):
    """Collects the rows of a list from the parts of a body. The methods raise InvalidInputError.

    ListTooLongError ends the reading of a list with more than MAX_ROWS rows.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []

    @abstractmethod
    def feed(self, part: bytes) -> None:
        """Read the next part of the body."""

    @abstractmethod
    def close(self) -> list[Row]:
        """Return all rows after the last part."""

    def _add(self, row: Row) -> None:
        if len(self._rows) == MAX_ROWS:
            raise ListTooLongError(limit=MAX_ROWS)
        self._rows.append(row)


class JsonReader(ListReader):
    """Reads `{"user_ids": [...]}`."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def feed(self, part: bytes) -> None:
        self._parts.append(part)

    def close(self) -> list[Row]:
        content = b"".join(self._parts)
        try:
            document = _DECODER.decode(content.removeprefix(_BOM).decode())
        except (ValueError, RecursionError) as error:
            raise InvalidInputError("The body is not valid JSON in UTF-8.") from error
        values = document.get("user_ids") if isinstance(document, dict) else None
        if not isinstance(values, list) or len(document) != 1:
            raise InvalidInputError(
                'The body must have the form {"user_ids": ["…", …]}. Options such as `reference` '
                "are query parameters."
            )
        for value in values:
            self._add(_user_id(value))
        return self._rows


class LineReader(ListReader):
    """Splits the body into lines. Blank lines are no rows."""

    def __init__(self) -> None:
        super().__init__()
        self._start = b""
        #: Whether the rest of a line that is too long is skipped.
        self._is_skipping = False
        self._is_first = True

    def feed(self, part: bytes) -> None:
        *lines, rest = part.split(b"\n")
        for line in lines:
            self._end_line(line)
        self._start += rest
        if len(self._start) > MAX_LINE_BYTES:
            self._start = b""
            self._is_skipping = True

    def close(self) -> list[Row]:
        self._end_line(b"")
        return self._rows

    @abstractmethod
    def _read_line(self, line: str) -> None:
        """Read a line that is not blank."""

    def _refuse_line(self, detail: str) -> None:
        """Take note of a line that cannot be read."""
        self._add(InvalidRow(detail))

    def _end_line(self, end: bytes) -> None:
        content, self._start = self._start + end, b""
        is_skipping, self._is_skipping = self._is_skipping, False
        if self._is_first:
            content = content.removeprefix(_BOM)
            self._is_first = False
        if is_skipping or len(content) > MAX_LINE_BYTES:
            self._refuse_line(f"the line must have at most {MAX_LINE_BYTES} bytes")
            return
        try:
            line = content.decode().rstrip("\r")
        except UnicodeDecodeError:
            self._refuse_line("the line must be UTF-8")
            return
        if line and not line.isspace():
            self._read_line(line)


class NdjsonReader(LineReader):
    """Reads lines of the form `{"user_id": "…"}`."""

    def _read_line(self, line: str) -> None:
        try:
            value = _DECODER.decode(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and value.keys() == {_COLUMN}:
            self._add(_user_id(value[_COLUMN]))
        else:
            self._refuse_line("the line must be an object with the field user_id only")


class CsvReader(LineReader):
    """Reads a header `user_id` in any case, and one id per line, which may be quoted."""

    def __init__(self) -> None:
        super().__init__()
        self._has_header = False

    def close(self) -> list[Row]:
        rows = super().close()
        if not self._has_header:
            raise InvalidInputError("The list is empty. Its first line must be `user_id`.")
        return rows

    def _read_line(self, line: str) -> None:
        # Each line on its own: a quote that is not closed must not swallow the following lines.
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error:
            fields = []
        if not self._has_header:
            if [field.strip().lower() for field in fields] != [_COLUMN]:
                self._refuse_line("")
            self._has_header = True
        elif len(fields) == 1:
            self._add(fields[0])
        else:
            self._refuse_line("the line must have one field, the user id")

    def _refuse_line(self, detail: str) -> None:
        if not self._has_header:
            raise InvalidInputError(
                "The first line must be the name of the only column, `user_id`, in UTF-8."
            )
        super()._refuse_line(detail)


#: Content type → reader of the body.
READERS: Final[Mapping[str, type[ListReader]]] = {
    "application/json": JsonReader,
    "text/csv": CsvReader,
    "application/x-ndjson": NdjsonReader,
}


def _user_id(value: Any) -> Row:
    """Return the id in a JSON value, in which integers are text already."""
    return value if isinstance(value, str) else InvalidRow("user_id must be a string or an integer")
