"""Where the command line writes: words for people, or exactly one JSON document for programs."""

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

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import ProgressColumn


@dataclass(frozen=True, slots=True)
class Screen:
    """`console` is for people: standard output, or standard error where JSON is asked for."""

    console: Console
    as_json: bool

    @classmethod
    def make(cls, *, as_json: bool) -> Screen:
        return cls(Console(stderr=as_json, highlight=False), as_json)

    def say(self, *what: RenderableType) -> None:
        """Print each on lines of its own; words may carry Rich's markup."""
        for one in what:
            self.console.print(one)

    def document(self, value: Any) -> None:
        """Print the command's one JSON document, where that is asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    def result(self, value: Any, *renderables: RenderableType) -> None:
        """Print what the command found out: the document, or its rendering for people."""
        if self.as_json:
            self.document(value)
        else:
            self.say(*renderables)

    def progress(self, left: ProgressColumn | None = None) -> Progress:
        """Return a progress display with the time left, by Rich's reckoning or the column's own."""
        return Progress(
            TextColumn("  {task.description:<24}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            left or TimeRemainingColumn(),
            console=self.console,
            # In a file a bar is noise.
            disable=not self.console.is_terminal,
        )
