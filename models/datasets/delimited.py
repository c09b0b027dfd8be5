"""Fields of delimited text: quotes, and records that run over several lines."""

from __future__ import annotations

import csv
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from models.datasets.errors import RejectedLineError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A quoted field that is still open after so many lines is a stray quote.
MAX_RECORD_LINES: Final = 20


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the fields of one line; raises RejectedLineError where its quotes do not close."""
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise RejectedLineError("the quotes are not balanced") from error


def records(
    lines: Iterator[tuple[int, str]], delimiter: str, width: int
) -> Iterator[tuple[int, list[str] | RejectedLineError]]:
    """Yield (number of the first line, fields), or the error of a line that makes no record.

    A quoted field may hold line ends. A stray quote must not swallow the lines after it, so lines
    are joined only where that gives a whole record; otherwise the first line alone is rejected.
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
            yield number, RejectedLineError("the line does not have the header's fields")


def _join(line: str, ahead: deque[tuple[int, str]], delimiter: str, width: int) -> list[str] | None:
    """Return the record that `line` begins, taking its lines from `ahead`; None if none is."""
    text = line
    for used, (_, following) in enumerate(ahead, start=1):
        text = f"{text}\n{following}"
        if '"' not in following:
            continue  # It cannot close the quotes.
        try:
            fields = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        if len(fields) != width:
            return None
        for _ in range(used):
            ahead.popleft()
        return fields
    return None
