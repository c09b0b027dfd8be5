"""`lethe benchmark`: what the methods are worth, in a table.

The benchmarks need torch, so each is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson
from app.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Told = Callable[[dict[str, Any]], None]

benchmark = typer.Typer(no_args_is_help=True, help="Compare methods, and measure the service.")

#: Runs take minutes: the time left is told from all of them, not from the last half minute.
_SPEED_SECONDS: Final = 7 * 86_400.0


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
        str, typer.Option(help="Who is forgotten: paper, one-percent, single-user.")
    ] = "paper",
    seeds: Annotated[int, typer.Option(help="Runs of each method; Retrain has at least 4.")] = 3,
    backbone: Annotated[str, typer.Option(help="What is tuned.")] = "compact",
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
            backbone=backbone,
            shadows=shadows,
            forget_seed=forget_seed,
        )
        made = table.Benchmark.prepare(options)
        if teacher_only:
            with _progress(screen, teachers.wanted(made), teachers.finished(made)) as told:
                results = teachers.look(made, told)
            screen.result(results, teachers.teacher_table(results))
        else:
            runs = made.wanted(options.methods), made.finished(options.methods)
            with _progress(screen, *runs) as told:
                results = made.run(told)
            lines = map(Text, report.goal_lines(results))
            screen.result(results, report.terminal_table(results), *lines)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        from benchmarks.unlearning.command import (  # noqa: PLC0415 -- needs torch
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
            "Stopped. The same command goes on after the last finished run."
        ) from None


@contextlib.contextmanager
def _progress(
    screen: Screen, wanted: set[tuple[str, int]], finished: set[tuple[str, int]]
) -> Iterator[Told]:
    """Show how many runs are done; what an earlier start has finished tells nothing of speed."""
    done = set(finished)
    with screen.progress() as progress:
        progress.speed_estimate_period = _SPEED_SECONDS
        bar = progress.add_task(_runs(done, wanted), total=len(wanted), completed=len(done))

        def told(run: dict[str, Any]) -> None:
            key = (run["method"], run["seed"])
            if key in finished:
                return
            done.add(key)
            screen.say(Text(f"  {_runs(done, wanted)}: {_figures(run)}"))
            progress.update(bar, description=_runs(done, wanted), completed=len(done))

        yield told


def _runs(done: set[tuple[str, int]], wanted: set[tuple[str, int]]) -> str:
    return f"{len(done)} of {len(wanted)} runs"


def _figures(run: dict[str, Any]) -> str:
    told = f"{run['method']} seed {run['seed']}"
    if "seconds" not in run:
        return told
    return (
        f"{told}, {run['seconds']:.1f} s, forget loss {run['forget_loss']:.4f}, "
        f"test AUC {run['test_auc']:.4f}"
    )
