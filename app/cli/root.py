"""The table of `lethe` commands. Each command is in the module of its name.

`consent` is in `forget.py` and `import` in `import_data.py`. `benchmark` is a program of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from app.cli.command_group import SETTINGS, CommandGroup
from app.cli.demo.command import demo
from app.cli.doctor import doctor
from app.cli.exit_codes import EPILOG, ExitCode
from app.cli.forget import consent, forget
from app.cli.import_data import import_data
from app.cli.jobs import jobs
from app.cli.keys import keys
from app.cli.processes import module_environment
from app.cli.recommend import recommend
from app.cli.releases import releases
from app.cli.report import report
from app.cli.requests import requests
from app.cli.restore_check import restore_check
from app.cli.train import train
from app.cli.up import up
from app.cli.verify import verify
from app.version import VERSION

SERVICE = "Service"
DATA = "Data and model"
USERS = "Users"
STATUS = "Status"
BENCHMARKS = "Benchmarks"

application = typer.Typer(
    name="lethe",
    cls=CommandGroup,
    context_settings=SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Unlearning as a service for recommenders that are language models.\n\n"
    "Start with [bold]lethe demo[/bold], or with import, train and up. LETHE_HOME is the data "
    "directory; every setting is an environment variable LETHE_… (see docs/settings.md).",
    epilog=EPILOG,
)


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"lethe {VERSION}\n")
        raise typer.Exit(ExitCode.SUCCESS)


@application.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Take the options before the command."""


for panel, name, function in (
    (SERVICE, "demo", demo),
    (SERVICE, "up", up),
    (DATA, "import", import_data),
    (DATA, "train", train),
    (USERS, "recommend", recommend),
    (USERS, "forget", forget),
    (USERS, "consent", consent),
    (STATUS, "jobs", jobs),
    (STATUS, "releases", releases),
    (STATUS, "doctor", doctor),
    (STATUS, "verify", verify),
    (STATUS, "report", report),
    (STATUS, "keys", keys),
    (STATUS, "restore-check", restore_check),
):
    application.command(name, rich_help_panel=panel)(function)
application.add_typer(requests, name="requests", rich_help_panel=STATUS)


@application.command(
    "benchmark",
    rich_help_panel=BENCHMARKS,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def benchmark(context: typer.Context) -> None:
    """Measure unlearning methods and serving speed; the same as python -m benchmarks."""
    # -P: a folder `benchmarks` in the working directory must not take precedence over this module.
    # The process is replaced, so that signals and the exit status need no forwarding.
    command = [sys.executable, "-P", "-m", "benchmarks", *context.args]
    os.execve(sys.executable, command, module_environment())  # noqa: S606 -- our own module
