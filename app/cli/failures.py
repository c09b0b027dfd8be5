"""Error handling of the commands: one line per expected error, and the exit status.

The status is 2 for bad input, 4 for a damaged erasure ledger, 130 for an interrupt, and 1 for other
failures. `restore-check` also ends with 3 if something must be repeated.
"""

from __future__ import annotations

import functools
import io
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec

import typer
from pydantic import ValidationError
from rich.text import Text

from app.cli.screen import Screen
from app.domain.errors import InvalidInputError, LedgerDamagedError, LetheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

P = ParamSpec("P")

FAILURE: Final = 1
BAD_INPUT: Final = 2
REPEAT: Final = 3
DAMAGED: Final = 4
INTERRUPTED: Final = 130


class CommandError(LetheError):
    """The command failed."""

    code = "failed"


class BadInputError(InvalidInputError):
    """An argument of the command cannot be used."""


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that an expected error is one line instead of a traceback."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        screen = Screen.make(as_json=bool(kwargs.get("as_json")))
        # A supervisor's SIGTERM ends a command in the same orderly way as Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            _check_texts(kwargs)
            function(*args, **kwargs)
        except LetheError as error:
            _exit(screen, error.code, str(error), _status_of(error))
        except ValidationError as error:
            _exit(screen, "invalid-settings", _settings_message(error), BAD_INPUT)
        except OSError as error:
            prefix = f"{error.filename}: " if error.filename else ""
            _exit(screen, "system", f"{prefix}{error.strerror or error}", FAILURE)
        except KeyboardInterrupt as interrupt:
            _exit(screen, "interrupted", str(interrupt) or "Stopped.", INTERRUPTED)

    return guarded


def _check_texts(arguments: dict[str, Any]) -> None:
    """Raise BadInputError for a text that is not UTF-8; paths may have any name."""
    for name, value in arguments.items():
        texts = value if isinstance(value, list | tuple) else [value]
        try:
            # Python turns bytes that are no UTF-8 into lone surrogates, which have no UTF-8.
            "".join(text for text in texts if isinstance(text, str)).encode()
        except UnicodeEncodeError as error:
            raise BadInputError(
                f"The argument {name} is not UTF-8. Type the argument in a terminal with a UTF-8 "
                "locale."
            ) from error


def _status_of(error: LetheError) -> int:
    if isinstance(error, LedgerDamagedError):
        return DAMAGED
    return BAD_INPUT if isinstance(error, InvalidInputError) else FAILURE


def _exit(screen: Screen, code: str, message: str, status: int) -> NoReturn:
    try:
        # A Text, so that brackets in a message are not read as markup.
        screen.say(Text(message, style="red" if status != INTERRUPTED else "yellow"))
        screen.document({"error": {"code": code, "message": message}})
    except OSError:
        # Standard output is full or closed. Python would try to write the rest at the exit.
        sys.stdout = io.StringIO()
        with suppress(OSError):
            sys.stderr.write(f"{message}\n")
    raise typer.Exit(status)


def _settings_message(error: ValidationError) -> str:
    def line(problem: Any) -> str:
        fields = [str(part).upper().removeprefix("LETHE_") for part in problem["loc"][:1]]
        name = "".join(f"LETHE_{field}: " for field in fields)
        return name + str(problem["msg"]).removeprefix("Value error, ")

    return "The settings are not valid. " + "; ".join(line(problem) for problem in error.errors())


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
