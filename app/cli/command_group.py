"""The group of commands, with the errors of the command line itself as one line or JSON document.

Typer prints a box for an unknown option or a value that is not among the choices, and `--json` has
no effect on this box.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup

from app.cli.exit_codes import ExitCode
from app.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

#: `-h` is the same as `--help`, in all groups and commands below a group with these settings.
SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """A group of commands that reports errors of the command line like all other errors."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            status = super().main(
                arguments,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            sys.stdout.flush()
        except typer.TyperException as error:
            if not standalone_mode:
                raise
            status = _report(error, arguments)
        except SystemExit as error:
            # Rich ends the process with the status 1 where the reader of a help text ended first.
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            status = ExitCode.BROKEN_PIPE
        except OSError as error:
            # A help text or the version could not be written. Python would try again at the exit.
            sys.stdout = io.StringIO()
            if isinstance(error, BrokenPipeError):
                status = ExitCode.BROKEN_PIPE
            else:
                Screen.make(as_json=False).fail("system", f"{error.strerror or error}")
                status = ExitCode.FAILURE
        if not standalone_mode:
            return status
        # A command returns None; an exit within it becomes the returned status.
        sys.exit(status or ExitCode.SUCCESS)


def _report(error: typer.TyperException, arguments: Sequence[str]) -> int:
    """Print the error of the command line, and return the exit status."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if message and context is not None:
        if not message.endswith((".", "?")):
            message += "."
        message += f" See: {context.command_path} --help"
    # The message is empty where the help was printed instead, because no argument was given.
    if message:
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        screen = Screen.make(as_json="--json" in options)
        screen.fail("invalid-input", message)
    return error.exit_code
