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
def import_data(
    path: DataPath,
    layout: Annotated[
        str, typer.Option("--format", help="Name of the format; auto detects it.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Import ratings: MovieLens, Goodreads, generic CSV or Parquet."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    if not path.exists():
        raise BadInputError(f"{path} does not exist. Check the path.")
    with open_installation(settings):
        summary = run_import(screen, path, layout)
    screen.result(summary, import_report(summary), *map(Text, summary["notes"]))


def run_import(screen: Screen, path: Path, layout: str) -> dict[str, Any]:
    """Import and return the summary; raises CommandError or BadInputError with its message."""
    with tempfile.TemporaryDirectory() as directory, Children() as children:
        log = Path(directory) / "import.log"
        child = children.start(
            Child(
                name="importer",
                module="worker",
                arguments=["import", str(path), "--format", layout],
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
