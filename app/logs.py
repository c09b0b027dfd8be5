"""Logging to stderr: readable lines on a terminal, JSON lines otherwise.

Events contain ids of jobs, requests, releases and processes, but never ids of users or items.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


class _LossyStream(io.TextIOBase):
    """A text stream on a file descriptor that drops what cannot be written.

    A full volume or a closed pipe then costs lines of the log, and never stops the service. Nothing
    is buffered, so that no later flush fails.
    """

    def __init__(self, stream: TextIO, descriptor: int) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = descriptor

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._descriptor


def tolerate_lost_logs() -> None:
    """Let the standard error of this process drop what cannot be written."""
    if sys.stderr is None:  # The descriptor was closed before the start.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 -- until the end
    if isinstance(sys.stderr, _LossyStream):
        return
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):
        return  # A stream in memory, of a test.
    sys.stderr = _LossyStream(sys.stderr, descriptor)


def configure_logging(level: str) -> None:
    """Configure structlog for this process. `level` is a name such as INFO."""
    tolerate_lost_logs()
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
