"""The commands of `lethe`, in the order in which one needs them."""

from __future__ import annotations

import typer

from app.cli.benchmark_commands import benchmark
from app.cli.data_commands import import_data, train
from app.cli.demo.command import demo
from app.cli.people_commands import consent, forget, recommend
from app.cli.status_commands import jobs, releases, verify
from app.cli.up import up

application = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Unlearning as a service for recommenders that are language models.\n\n"
    "Start with [bold]lethe demo[/bold], or with import, train and up. Data lies under "
    "LETHE_HOME; every setting is an environment variable LETHE_… (see README.md).",
)

SERVICE = "The service"
DATA = "Data and model"
PEOPLE = "People"
STATUS = "Where things stand"
BENCHMARKS = "What it is worth"

application.command("demo", rich_help_panel=SERVICE)(demo)
application.command("up", rich_help_panel=SERVICE)(up)
application.command("import", rich_help_panel=DATA)(import_data)
application.command("train", rich_help_panel=DATA)(train)
application.command("recommend", rich_help_panel=PEOPLE)(recommend)
application.command("forget", rich_help_panel=PEOPLE)(forget)
application.command("consent", rich_help_panel=PEOPLE)(consent)
application.command("jobs", rich_help_panel=STATUS)(jobs)
application.command("releases", rich_help_panel=STATUS)(releases)
application.command("verify", rich_help_panel=STATUS)(verify)
application.add_typer(benchmark, name="benchmark", rich_help_panel=BENCHMARKS)
