"""Errors of data sets and of single lines."""

from __future__ import annotations


class DataSetError(ValueError):
    """The data set cannot be read. The message gives the cause and the remedy."""


class UnknownFormatError(DataSetError):
    """No known format matches the path or the given name."""


class RejectedLineError(ValueError):
    """A line is malformed; the reader counts it in the report and continues.

    `reason` is a fixed text that never quotes the line: reports are logged, and lines contain
    personal data.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
