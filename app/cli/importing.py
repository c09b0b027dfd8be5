"""Runs `python -m worker import` and shows its progress; reading a data set needs `models`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cli.failures import BadInputError, CommandError
from app.cli.processes import Child, Children

if TYPE_CHECKING:
    from app.cli.screen import Screen

_STAGES: Final = {"read": "reading", "store": "storing"}


def run_import(screen: Screen, path: Path, layout: str) -> dict[str, Any]:
    """Return the summary of the import, or raise with the importer's own message."""
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
        summary = _show(screen, child)
        status = child.process.wait()
        if summary is None or status != 0:
            raise _failure(log.read_text(errors="replace"), status)
        return summary


def _show(screen: Screen, child: Child) -> dict[str, Any] | None:
    """Follow the importer's JSON lines to the last, which has the summary."""
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
    for line in reversed(log.splitlines()):
        try:
            event = json.loads(line)
            code, message = event["code"], event["message"]
        except (ValueError, KeyError, TypeError):
            continue
        return BadInputError(message) if code == "invalid-input" else CommandError(message)
    last = log.strip().splitlines()[-1:] or ["it says nothing"]
    return CommandError(f"The import ended with status {status}: {last[0]}")
