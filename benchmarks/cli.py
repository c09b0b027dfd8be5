"""The commands of `lethe benchmark`: options, progress and output.

The benchmarks load torch, so each command imports its benchmark when it runs.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import ProgressColumn
from rich.text import Text

from app.cli.command_group import SETTINGS, CommandGroup
from app.cli.demo.command import SHIPPED_DATA
from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson
from app.cli.screen import Screen
from app.domain.backbone_names import KNOWN, check_backbone, describe_backbone
from app.settings import get_settings
from benchmarks.audit_power.command import audit_power
from benchmarks.renewal.command import renewal, renewal_costs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, Task, TaskID

_MAX_CLIENTS = 512

OutputDirectory = Annotated[
    Path, typer.Option(metavar="DIR", help="Directory for the results.", show_default=False)
]

application = typer.Typer(
    cls=CommandGroup,
    context_settings=SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Measure unlearning methods, the audit and serving speed, and simulate renewals.",
)
application.command("renewal-costs")(renewal_costs)
application.command("renewal")(renewal)
application.command("audit-power")(audit_power)


@application.command("unlearning")
@command
def unlearning(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set: file or directory.", show_default=False)
    ],
    out: OutputDirectory,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:N",
            help="Methods, separated by commas; N runs in place of --seeds. Default: all.",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Data to forget: paper, one-percent, single-user, sequential, interactions, items."
        ),
    ] = "paper",
    seeds: Annotated[int, typer.Option(help="Runs per method.")] = 3,
    backbone: Annotated[str, typer.Option(help=f"{KNOWN}.", metavar="NAME")] = "compact",
    shadows: Annotated[
        int, typer.Option(help="Reference models for the attack, besides the Retrain runs.")
    ] = 16,
    retrain_runs: Annotated[
        int, typer.Option(help="Retrain runs, at least 4 and at least --seeds.")
    ] = 8,
    forget_seed: Annotated[int, typer.Option(help="Seed that draws the data to forget.")] = 0,
    teacher_only: Annotated[
        bool, typer.Option("--teacher-only", help="Evaluate only the teachers of the methods.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare unlearning methods with retraining; an interrupted run resumes."""
    screen = Screen.make(as_json=as_json)
    with _benchmark_errors():
        from benchmarks.unlearning import benchmark as comparison  # noqa: PLC0415 -- needs torch
        from benchmarks.unlearning import report, teachers  # noqa: PLC0415 -- needs torch

        options = comparison.Options(
            data=data,
            out=out,
            methods=comparison.ALL if methods is None else comparison.parse_methods(methods),
            protocol=protocol,
            seeds=seeds,
            seeds_of={} if methods is None else comparison.parse_seeds(methods),
            backbone=check_backbone(backbone),
            shadows=shadows,
            retrain_runs=retrain_runs,
            forget_seed=forget_seed,
            teacher_only=teacher_only,
            backbones=get_settings().backbones_directory,
        )
        with comparison.Benchmark.claim(options) as benchmark:
            screen.say(Text(f"  {options.backbone}: {describe_backbone(options.backbone)}"))
            if teacher_only:
                with _progress_bar(screen) as bar:
                    results = teachers.evaluate(benchmark, bar)
                screen.result(results, teachers.teacher_table(results))
            else:
                with _progress_bar(screen) as bar:
                    results = benchmark.run(bar)
                lines = [*report.goal_lines(results), *report.failures(results)]
                screen.result(results, report.terminal_table(results), *map(Text, lines))


@application.command("serving")
@command
def serving(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    out: OutputDirectory,
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set. Default: data/ml-latest-small.")
    ] = SHIPPED_DATA,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory that keeps the trained release for the next run. "
            "Default: a temporary one.",
        ),
    ] = None,
    clients: Annotated[
        str, typer.Option(metavar="1,8,…", help="Numbers of concurrent clients.")
    ] = "1,8,64",
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each scenario.")] = 10.0,
    replicas: Annotated[
        int, typer.Option(min=1, max=16, help="Gateway processes on one socket.")
    ] = 1,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="PostgreSQL database: empty, or of an earlier run with the same --home. "
            "Default: SQLite.",
        ),
    ] = None,
    forgets_per_second: Annotated[
        float,
        typer.Option(min=0.0, help="Deletions per second beside the load; 0: none."),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of recommendations, with and without deletions running."""
    screen = Screen.make(as_json=as_json)
    if not data.exists():
        raise BadInputError(f"{data} does not exist. Check --data.")
    if database is not None and not database.startswith("postgresql"):
        raise BadInputError("--database takes the URL of a PostgreSQL database.")
    client_counts = _client_counts(clients)
    from benchmarks.serving import measurement, report  # noqa: PLC0415 -- needs torch

    with (
        tempfile.TemporaryDirectory(prefix="lethe-serving-") as temporary,
        _progress_bar(screen) as bar,
    ):
        options = measurement.Options(
            data=data.absolute(),
            home=Path(temporary) / "home" if home is None else home.absolute(),
            out=out,
            clients=client_counts,
            seconds=seconds,
            replicas=replicas,
            database=database,
            forgets_per_second=forgets_per_second,
        )
        try:
            results = measurement.run(options, bar)
        except (measurement.SetUpFailedError, TimeoutError) as error:
            raise CommandError(str(error)) from error
    screen.result(results, report.terminal_table(results), *map(Text, report.goal_lines(results)))


def _client_counts(clients: str) -> tuple[int, ...]:
    """Parse the numbers of clients; raises BadInputError."""
    try:
        counts = tuple(int(count) for count in clients.split(","))
    except ValueError:
        counts = ()
    if 1 not in counts or min(counts) < 1 or max(counts) > _MAX_CLIENTS:
        raise BadInputError(f"--clients takes numbers from 1 to {_MAX_CLIENTS}, including 1.")
    return counts


@contextlib.contextmanager
def _benchmark_errors() -> Iterator[None]:
    """Turn errors of the unlearning benchmark into errors of the command line."""
    try:
        from benchmarks.unlearning.errors import (  # noqa: PLC0415 -- inside the interrupt handler
            BenchmarkFailedError,
            BenchmarkInputError,
        )

        try:
            yield
        except BenchmarkInputError as error:
            raise BadInputError(str(error)) from error
        except BenchmarkFailedError as error:
            raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Stopped. Finished runs are kept; the same command goes on from there."
        ) from None


class _RemainingTime(ProgressColumn):
    """Remaining time by the benchmark's own estimate: its units differ too much in length."""

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds, or dashes while there is no estimate."""
        left = task.fields.get("left")
        shown = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        return Text(shown, style="progress.remaining")


@dataclass(frozen=True, slots=True)
class _ProgressBar:
    """Shows the benchmark's progress on the screen."""

    screen: Screen
    progress: Progress
    task: TaskID

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Move the bar; `spent` and `left` are seconds."""
        self.progress.tasks[self.task].total = None if left is None else spent + left
        self.progress.update(self.task, description=text, completed=spent, left=left)

    def tell(self, text: str) -> None:
        """Print a line above the bar."""
        self.screen.say(Text(f"  {text}"))


@contextlib.contextmanager
def _progress_bar(screen: Screen) -> Iterator[_ProgressBar]:
    with screen.progress(_RemainingTime()) as progress:
        yield _ProgressBar(screen, progress, progress.add_task("reading", total=None))
