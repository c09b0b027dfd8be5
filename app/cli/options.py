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
Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="LETHE_URL",
        help="Call the service at this address, such as http://host:8000. Default: the"
        " installation on this machine.",
    ),
]
ServiceUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="LETHE_URL",
        help="The service's address; default: LETHE_HOST and LETHE_PORT.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="LETHE_KEY",
        help="API key of the service; default: the first of LETHE_API_KEYS. Other users of this"
        " machine can see options, but not variables.",
    ),
]
CertificateNumber = Annotated[
    int | None,
    typer.Option("--number", metavar="N", min=1, help="This certificate; default: the newest."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write to this file; - is standard output."),
]
DataPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="File or directory.", show_default=False)
]
