"""Command-line options that several commands share. Typer reads them at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)]
Items = Annotated[
    list[str] | None,
    typer.Option("--item", metavar="ID", help="Only this item; may be repeated."),
]
RequestedBy = Annotated[
    str | None,
    typer.Option("--requested-by", metavar="TEXT", help="Who asked on the person's behalf."),
]
TicketReference = Annotated[
    str | None,
    typer.Option("--reference", metavar="TEXT", help="Your own ticket id; no personal data."),
]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port. Default: 8000."),
]
DataPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="File or directory.", show_default=False)
]
