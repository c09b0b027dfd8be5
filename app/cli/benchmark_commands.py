"""`lethe benchmark`: what the methods are worth, in a table.

The benchmarks need torch, so each is imported only when it is asked for.
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

from app.cli.demo.command import SHIPPED
from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson
from app.cli.screen import Screen
from app.domain.backbone_names import KNOWN, check_backbone, describe_backbone
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, Task, TaskID

_MOST_CLIENTS = 512

benchmark = typer.Typer(no_args_is_help=True, help="Measure what the methods are worth.")


@benchmark.command("unlearning")
@command
def unlearning(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set: file or directory.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)
    ],
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Methods, with commas; without it, all.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="What is forgotten: paper, one-percent, single-user, sequential, interactions, "
            "items."
        ),
    ] = "paper",
    seeds: Annotated[int, typer.Option(help="Runs of each method; Retrain has at least 4.")] = 3,
    backbone: Annotated[str, typer.Option(help=f"{KNOWN}.", metavar="NAME")] = "compact",
    shadows: Annotated[int, typer.Option(help="Reference models besides the Retrain runs.")] = 0,
    forget_seed: Annotated[int, typer.Option(help="Draws who is forgotten.")] = 0,
    teacher_only: Annotated[
        bool, typer.Option("--teacher-only", help="Only look at what students would be taught.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print how near each method comes to retraining, at what price; goes on where it stopped."""
    screen = Screen.make(as_json=as_json)
    with _clear_errors():
        from benchmarks.unlearning import command as table  # noqa: PLC0415 -- needs torch
        from benchmarks.unlearning import report, teachers  # noqa: PLC0415 -- needs torch

        options = table.Options(
            data=data,
            out=out,
            methods=table.ALL if methods is None else table.parse_methods(methods),
            protocol=protocol,
            seeds=seeds,
            backbone=check_backbone(backbone),
            shadows=shadows,
            forget_seed=forget_seed,
            teacher_only=teacher_only,
            backbones=get_settings().backbones_directory,
        )
        with table.Benchmark.claim(options) as made:
            screen.say(Text(f"  {options.backbone}: {describe_backbone(options.backbone)}"))
            if teacher_only:
                with _bar(screen) as bar:
                    results = teachers.evaluate(made, bar)
                screen.result(results, teachers.teacher_table(results))
            else:
                with _bar(screen) as bar:
                    results = made.run(bar)
                lines = [*report.goal_lines(results), *report.failures(results)]
                screen.result(results, report.terminal_table(results), *map(Text, lines))


@benchmark.command("serving")
@command
def serving(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set. [default: data/ml-latest-small]")
    ] = SHIPPED,
    home: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keeps what is trained; without it, all is made anew."),
    ] = None,
    clients: Annotated[str, typer.Option(metavar="1,8,…", help="Clients at once.")] = "1,8,64",
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each scenario.")] = 10.0,
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Gateways on one socket.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print how fast recommendations are, alone and while people are being forgotten."""
    screen = Screen.make(as_json=as_json)
    if not data.exists():
        raise BadInputError(f"{data} does not exist. Check --data.")
    counts = _counts(clients)
    from benchmarks.serving import command as bench  # noqa: PLC0415 -- needs torch
    from benchmarks.serving import report  # noqa: PLC0415 -- needs torch

    with tempfile.TemporaryDirectory(prefix="lethe-serving-") as own, _bar(screen) as bar:
        options = bench.Options(
            data=data.absolute(),
            home=Path(own) if home is None else home.absolute(),
            out=out,
            clients=counts,
            seconds=seconds,
            replicas=replicas,
        )
        try:
            results = bench.run(options, bar)
        except (bench.SetUpFailedError, TimeoutError) as error:
            raise CommandError(str(error)) from error
    screen.result(results, report.terminal_table(results), *map(Text, report.goal_lines(results)))


def _counts(clients: str) -> tuple[int, ...]:
    """Return the numbers of clients; raises BadInputError."""
    try:
        counts = tuple(int(each) for each in clients.split(","))
    except ValueError:
        counts = ()
    if 1 not in counts or min(counts) < 1 or max(counts) > _MOST_CLIENTS:
        raise BadInputError(f"--clients takes numbers from 1 to {_MOST_CLIENTS}, 1 among them.")
    return counts


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        from benchmarks.unlearning.errors import (  # noqa: PLC0415 -- as above
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
            "Stopped. What is finished is kept; the same command goes on from there."
        ) from None


class _Left(ProgressColumn):
    """The time left as the benchmark foretells it: its units differ too much for a mean speed."""

    def render(self, task: Task) -> Text:
        """Show it in hours, minutes and seconds; dashes as long as nothing is known."""
        left = task.fields.get("left")
        shown = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        return Text(shown, style="progress.remaining")


@dataclass(frozen=True, slots=True)
class _Bar:
    """The benchmark's progress on the screen."""

    screen: Screen
    progress: Progress
    task: TaskID

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Move the bar."""
        total = None if left is None else spent + left
        shown = self.progress.tasks[self.task]
        shown.total = total
        self.progress.update(self.task, description=text, completed=spent, left=left)

    def tell(self, text: str) -> None:
        """Print a line above it."""
        self.screen.say(Text(f"  {text}"))


@contextlib.contextmanager
def _bar(screen: Screen) -> Iterator[_Bar]:
    with screen.progress(_Left()) as progress:
        yield _Bar(screen, progress, progress.add_task("reading", total=None))
