"""`lethe import`: run `python -m worker import` and show its progress.

The import is a child process because reading a data set needs `models`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import BadInputError, CommandError, command
from app.cli.installation import open_installation
from app.cli.options import AsJson, DataPath
from app.cli.processes import Child, Children
from app.cli.screen import Screen, table
from app.settings import get_settings

if TYPE_CHECKING:
    from rich.table import Table

_STAGES: Final = {"read": "reading", "store": "storing"}
_MAX_EXAMPLES: Final = 5


@command
def import_data(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    path: DataPath,
    layout: Annotated[
        str, typer.Option("--format", help="Name of the format; auto detects it.")
    ] = "auto",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH", help="Lowest and highest rating, such as 1:10. Default: 0.5:5."
        ),
    ] = None,
    implicit: Annotated[
        float | None,
        typer.Option(
            metavar="THRESHOLD",
            help="Take ratings for counts or hours: from THRESHOLD on 5 stars, below 1 star.",
        ),
    ] = None,
    time_unit: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            help="Unit of timestamps: seconds, milliseconds, microseconds, nanoseconds or date.",
        ),
    ] = "auto",
    no_timestamps: Annotated[
        str | None,
        typer.Option(
            metavar="random|order",
            help="Import without times: in a random order, or in the order of the rows.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="The file has no header; its columns, such as user,item,rating,-,timestamp.",
        ),
    ] = None,
    column_map: Annotated[
        str | None,
        typer.Option(
            "--map", metavar="MEANING=COLUMN,…", help="Names of columns, such as user=customer_id."
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoding of text files, such as cp1251.")
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Leave out lines whose rating, time or id cannot be read, up to half of them.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import ratings: MovieLens, Goodreads, Amazon, RecBole and others, CSV or Parquet."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    if not path.exists():
        raise BadInputError(f"{path} does not exist. Check the path.")
    options = {
        "scale": scale,
        "implicit": implicit,
        "time_unit": time_unit,
        "no_timestamps": no_timestamps,
        "columns": columns,
        "column_map": column_map,
        "encoding": encoding,
        "skip_unreadable": skip_unreadable,
    }
    with open_installation(settings):
        summary = run_import(screen, path, layout, options)
    screen.result(summary, import_report(summary), *map(Text, summary["notes"]))


def run_import(
    screen: Screen, path: Path, layout: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Import and return the summary; raises CommandError or BadInputError with its message.

    `options` are those of `ReadOptions.parse` in `models/datasets/options.py`.
    """
    with tempfile.TemporaryDirectory() as directory, Children() as children:
        log = Path(directory) / "import.log"
        arguments = ["import", str(path), "--format", layout]
        child = children.start(
            Child(
                name="importer",
                module="worker",
                arguments=[*arguments, "--options", json.dumps(options or {})],
                log=log,
                pipe_stdout=True,
            )
        )
        summary = _follow(screen, child)
        status = child.process.wait()
        if summary is None or status != 0:
            raise _failure(log.read_text(errors="replace"), status)
        return summary


def import_report(summary: dict[str, Any]) -> Table:
    """Return the counts of an import; together they cover every line of the data set."""
    rows = [
        ("lines read", summary["lines"], summary["format"]),
        ("ratings accepted", summary["accepted"], ""),
        ("descriptions of items or users", summary["described"], ""),
        ("duplicate ratings, the latest kept", summary["duplicates"], ""),
    ]
    rows += [(f"not stored: {reason}", count, "") for reason, count in summary["skipped"].items()]
    rows += [(f"invalid: {fault}", count, "") for fault, count in summary["invalid"].items()]
    for group in summary["rejected"]:
        examples = ", ".join(group["examples"][:_MAX_EXAMPLES])
        more = ", …" if group["count"] > _MAX_EXAMPLES else ""
        rows.append((f"rejected: {group['reason']}", group["count"], examples + more))
    rows += [(f"{kind} stored", summary[kind], "") for kind in ("users", "items", "interactions")]
    return table("", "count", "where", rows=[(n, f"{c:,}", w) for n, c, w in rows], numbers=(1,))


def _follow(screen: Screen, child: Child) -> dict[str, Any] | None:
    """Show the importer's JSON lines as progress; return the summary from the last line."""
    summary: dict[str, Any] | None = None
    with screen.progress() as progress:
        tasks = {stage: progress.add_task(name, total=None) for stage, name in _STAGES.items()}
        for line in child.process.stdout or ():
            event = json.loads(line)
            if event["stage"] in tasks:
                progress.update(
                    tasks[event["stage"]], completed=event["done"], total=event["total"]
                )
            else:
                summary = event["summary"]
    return summary


def _failure(log: str, status: int) -> CommandError | BadInputError:
    """Return the error that the importer logged last."""
    for line in reversed(log.splitlines()):
        try:
            event = json.loads(line)
            code, message = event["code"], event["message"]
        except (ValueError, KeyError, TypeError):
            continue
        return BadInputError(message) if code == "invalid-input" else CommandError(message)
    last_line = log.strip().splitlines()[-1:] or ["the log is empty"]
    return CommandError(f"The import ended with status {status}: {last_line[0]}")
