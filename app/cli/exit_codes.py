"""The exit status of every command. docs/guides/usage.md has the same table."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The exit status of a command; `MEANINGS` explains each."""

    SUCCESS = 0
    FAILURE = 1
    BAD_INPUT = 2
    REPEAT = 3
    DAMAGED = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: Final = {
    ExitCode.SUCCESS: "success",
    ExitCode.FAILURE: "failure, also of one of several deletions, or a problem in `lethe doctor`",
    ExitCode.BAD_INPUT: "bad input: an option, an argument, a file or a setting",
    ExitCode.REPEAT: "`lethe restore-check` found deletions that must be repeated",
    ExitCode.DAMAGED: "the erasure ledger is damaged",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C or SIGTERM",
    ExitCode.BROKEN_PIPE: "the reader of the output ended first, such as `head`",
}
#: The end of `lethe --help`.
EPILOG: Final = "Exit status: " + "; ".join(f"{code} {text}" for code, text in MEANINGS.items())
