"""Split delimited text into fields, including quoted fields that contain line breaks."""

from __future__ import annotations

import csv
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from models.datasets.errors import RejectedLineError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A quoted field that is still open after this number of lines is treated as a stray quote. Long
#: reviews have 200 lines.
MAX_RECORD_LINES: Final = 500
#: The error of csv for a quoted field that no line has closed yet.
_IS_OPEN: Final = "unexpected end of data"


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line; raises RejectedLineError if a quote is not closed."""
    if '"' not in line or len(delimiter) > 1:
        return line.split(delimiter)  # Files with "::" have no quoted fields.
    # Book-Crossing and MySQL write a quote in a quoted field as \".
    for escape in (None, "\\") if '\\"' in line else (None,):
        with suppress(csv.Error):
            return next(csv.reader([line], delimiter=delimiter, strict=True, escapechar=escape))
    raise RejectedLineError("the quotes are not balanced")


def records(
    lines: Iterator[tuple[int, str]], delimiter: str, width: int
) -> Iterator[tuple[int, list[str] | RejectedLineError]]:
    """Yield (number of the first line, fields or error) for every record.

    Lines are joined only if the result is a complete record of `width` fields. Otherwise only the
    first line is rejected, so that a stray quote does not consume the following lines.
    """
    ahead: deque[tuple[int, str]] = deque()
    while True:
        number, line = ahead.popleft() if ahead else next(lines, (0, ""))
        if not number:
            return
        try:
            fields = split_line(line, delimiter)
        except RejectedLineError as error:
            ahead.extend(islice(lines, MAX_RECORD_LINES - len(ahead)))
            joined = _join(line, ahead, delimiter, width)
            if joined is None:
                yield number, error
                continue
            fields = joined
        if len(fields) == width:
            yield number, fields
        else:
            yield number, RejectedLineError("the line does not have as many fields as the header")


def _join(line: str, ahead: deque[tuple[int, str]], delimiter: str, width: int) -> list[str] | None:
    """Return the fields of the record that starts with `line`, removing its lines from `ahead`."""
    text = line
    for joined_lines, (_, following) in enumerate(ahead, start=1):
        text = f"{text}\n{following}"
        if '"' not in following:
            continue  # The line cannot close the quoted field.
        try:
            fields = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error as error:
            if str(error) != _IS_OPEN:
                return None  # More lines cannot close the field at another place.
            continue
        if len(fields) != width:
            return None
        for _ in range(joined_lines):
            ahead.popleft()
        return fields
    return None
