"""`lethe report`: write a certificate as a page for people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from app.cli.failures import BadInputError, command
from app.cli.options import AsJson, CertificateNumber, Key, Out, Url
from app.cli.screen import STANDARD_OUTPUT, Screen, write_file
from app.cli.source import open_source
from app.web.certificate_page import certificate_page, page_name


@command
def report(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id.")],
    number: CertificateNumber = None,
    out: Out = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Write the certificate of a completed deletion as a page to read and print.

    The page holds the signed certificate: `lethe verify` checks it. Default of --out:
    certificate-REQUEST-N.html in this directory.
    """
    screen = Screen.make(as_json=as_json)
    if as_json and out == STANDARD_OUTPUT:
        raise BadInputError("--out - prints the page, so it cannot be used with --json.")
    with open_source(url, key) as source:
        envelope = source.certificate(request_id, number)
    page = certificate_page(envelope)
    if out == STANDARD_OUTPUT:
        sys.stdout.write(page)
        return
    path = out or Path(page_name(envelope))
    write_file(path, page)
    screen.result({"file": str(path)}, Text(f"The page is in {path}"))
