"""Error handling of the commands: one line per expected error, and the exit status."""

from __future__ import annotations

import functools
import io
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

from app.cli.exit_codes import ExitCode
from app.cli.screen import Screen
from app.domain.errors import InvalidInputError, LedgerDamagedError, LetheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

P = ParamSpec("P")


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
            sys.stdout.flush()  # Otherwise Python reports a full disk after the exit status is set.
        except LetheError as error:
            _exit(screen, error.code, str(error), _status_of(error))
        except BrokenPipeError:
            sys.stdout = io.StringIO()  # Python would try to write the rest at the exit.
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except OSError as error:
            prefix = f"{error.filename}: " if error.filename else ""
            _exit(screen, "system", f"{prefix}{error.strerror or error}", ExitCode.FAILURE)
        except KeyboardInterrupt as interrupt:
            _exit(screen, "interrupted", str(interrupt) or "Stopped.", ExitCode.INTERRUPTED)

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


def _status_of(error: LetheError) -> ExitCode:
    if isinstance(error, LedgerDamagedError):
        return ExitCode.DAMAGED
    return ExitCode.BAD_INPUT if isinstance(error, InvalidInputError) else ExitCode.FAILURE


def _exit(screen: Screen, code: str, message: str, status: ExitCode) -> NoReturn:
    try:
        screen.fail(code, message, "yellow" if status is ExitCode.INTERRUPTED else "red")
    except OSError:
        # Standard output is full or closed. Python would try to write the rest at the exit.
        sys.stdout = io.StringIO()
    raise typer.Exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
