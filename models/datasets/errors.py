"""What can be wrong with a data set as a whole, and with one line of it."""

from __future__ import annotations


class DataSetError(ValueError):
    """The data set cannot be read; the message says what is wrong and what to do."""


class UnknownFormatError(DataSetError):
    """The path holds none of the known formats."""


class RejectedLineError(ValueError):
    """One line cannot be taken; the reader counts it and goes on.

    `reason` is one of a few fixed texts and never quotes the line, because reports end up in logs
    and a line is about a person.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
