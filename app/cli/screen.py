"""Output of the command line: text and tables, or exactly one JSON document with `--json`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import JustifyMethod, RenderableType
    from rich.progress import ProgressColumn


@dataclass(frozen=True, slots=True)
class Screen:
    """Writes text to `console`: standard output, or standard error with `--json`."""

    console: Console
    as_json: bool

    @classmethod
    def make(cls, *, as_json: bool) -> Screen:
        return cls(Console(stderr=as_json, highlight=False), as_json)

    def say(self, *renderables: RenderableType) -> None:
        """Print each value on lines of its own; strings may contain Rich markup."""
        for renderable in renderables:
            self.console.print(renderable)

    def document(self, value: Any) -> None:
        """Print the command's JSON document if `--json` was given."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    def result(self, value: Any, *renderables: RenderableType) -> None:
        """Print the command's result: the JSON document, or its rendering as text."""
        if self.as_json:
            self.document(value)
        else:
            self.say(*renderables)

    def progress(self, remaining_time: ProgressColumn | None = None) -> Progress:
        """Return a progress display; the remaining time is Rich's estimate or the given column."""
        return Progress(
            TextColumn("  {task.description:<24}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            remaining_time or TimeRemainingColumn(),
            console=self.console,
            # In a file a bar is noise.
            disable=not self.console.is_terminal,
        )


def table(*columns: str, rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> Table:
    """Return a table without lines; the columns with the indices `numbers` are right-aligned."""
    result = Table(
        box=None, pad_edge=False, padding=(0, 2), header_style="bold", show_header=any(columns)
    )
    for index, column in enumerate(columns):
        justify: JustifyMethod = "right" if index in numbers else "left"
        # Long ids and key ids continue on the next line; a truncated id is of no use.
        result.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        # A Text, so that brackets in titles are not read as markup.
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def facts(values: dict[str, Any]) -> Table:
    """Return a table of names and values, one per line."""
    return table("", "", rows=[(name, _plain(value)) for name, value in values.items()])


def moment(value: Any) -> str:
    """Return an RFC 3339 time for a table, to the second."""
    return str(value)[:19].replace("T", " ")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
