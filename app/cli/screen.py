"""Output of the command line: text and tables, or exactly one JSON document with `--json`.

In a terminal, tables are aligned. In a pipe or a file, each row is one line whose values are
separated by tabs, so that ids are whole and `cut -f 1` reads a column. Errors and notes go to
standard error.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.measure import Measurement
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

from app.private_files import write_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import JustifyMethod, RenderableType
    from rich.progress import ProgressColumn


#: The value of --out for standard output.
STANDARD_OUTPUT: Final = Path("-")
#: A width that no table reaches; Rich never measures more than the width of the terminal.
_UNLIMITED: Final = 100_000
#: Characters that give orders to a terminal or turn the direction of the text around them.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class _Console(Console):
    """A console that raises BrokenPipeError; Rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 -- Rich calls this where it handles the error


@dataclass(frozen=True, slots=True)
class Screen:
    """Writes text to `console`: standard output, or standard error with `--json`."""

    console: Console
    as_json: bool

    @classmethod
    def make(cls, *, as_json: bool) -> Screen:
        return cls(_Console(stderr=as_json, highlight=False), as_json)

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
            return
        for renderable in renderables:
            if isinstance(renderable, Table):
                self._print_table(renderable, with_header=True)
            else:
                # A terminal wraps long lines by itself; in a pipe they must stay whole.
                self.console.print(renderable, soft_wrap=not self.console.is_terminal)

    def listing(self, value: Any, rows: Table, *notes: str) -> None:
        """Print a list as the JSON document or as a table; `notes` are not part of the list.

        In a pipe, the notes go to standard error.
        """
        if self.as_json:
            self.document(value)
            return
        if rows.row_count:
            self._print_table(rows, with_header=False)
        console = self.console if self.console.is_terminal else _Console(stderr=True)
        for note in notes:
            console.print(Text(note), soft_wrap=True, highlight=False)

    def fail(self, code: str, message: str, style: str = "red") -> None:
        """Print an error to standard error, and with `--json` its document."""
        _Console(stderr=True).print(_text(message, style), soft_wrap=True)
        self.document({"error": {"code": code, "message": message}})

    def _print_table(self, rows: Table, *, with_header: bool) -> None:
        """Print the table in a terminal, and one line per row in a pipe or a file."""
        if self.console.is_terminal:
            _as_wide_as_needed(self.console, rows).print(rows)
            return
        cells = list(zip(*(column.cells for column in rows.columns), strict=True))
        header = [tuple(column.header for column in rows.columns)]
        for row in [*(header if with_header and rows.show_header else ()), *cells]:
            line = "\t".join(" ".join(str(cell).split()) for cell in row)
            # Not `console.print`, which writes a tab as blanks.
            self.console.file.write(line.rstrip("\t") + "\n")

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


def _as_wide_as_needed(console: Console, rows: Table) -> Console:
    """Return a console in which no id of the table is wrapped; the terminal wraps long lines."""
    if not any(column.no_wrap for column in rows.columns):
        return console
    unlimited = console.options.update(max_width=_UNLIMITED)
    return _Console(
        file=console.file,
        width=max(console.width, Measurement.get(console, unlimited, rows).maximum),
        force_terminal=True,
        color_system=None if console.color_system is None else "auto",
        highlight=False,
    )


def table(
    *columns: str,
    rows: Iterable[Sequence[Any]],
    numbers: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> Table:
    """Return a table without lines.

    The columns with the indices `numbers` are right-aligned. Those with the indices `whole` hold
    ids, which are never wrapped or cut.
    """
    result = Table(
        box=None, pad_edge=False, padding=(0, 2), header_style="bold", show_header=any(columns)
    )
    for index, column in enumerate(columns):
        justify: JustifyMethod = "right" if index in numbers else "left"
        # Long values continue on the next line; a truncated value is of no use.
        result.add_column(column, justify=justify, overflow="fold", no_wrap=index in whole)
    for row in rows:
        result.add_row(*(_text(str(cell)) for cell in row))
    return result


def facts(values: dict[str, Any]) -> Table:
    """Return a table of names and values, one per line."""
    return table("", "", rows=[(name, _plain(value)) for name, value in values.items()])


def write_file(path: Path, text: str) -> None:
    """Write the whole text to the file, or leave the file as it is.

    A link or a device, such as /dev/stdout, is written to and not replaced.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
        return
    temporary = write_beside(path, text.encode())
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def moment(value: Any) -> str:
    """Return an RFC 3339 time for a table, to the second."""
    return str(value)[:19].replace("T", " ")


def _text(value: str, style: str = "") -> Text:
    """Return a text without control characters, in which brackets are not read as markup."""
    return Text(_CONTROLS.sub(lambda match: ascii(match[0])[1:-1], value), style=style)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
