"""`lethe keys`: list the public keys of certificates, and rotate the signing key."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.failures import BadInputError, command
from app.cli.options import AsJson, Key, Url
from app.cli.screen import Screen, moment, table
from app.cli.source import open_source
from app.services import signing_keys

if TYPE_CHECKING:
    from app.cli.source import Source


class KeyAction(StrEnum):
    """`list`: show the keys; `rotate`: replace the signing key by a new one."""

    LIST = "list"
    ROTATE = "rotate"


@command
def keys(
    action: Annotated[KeyAction, typer.Argument(help="List the keys, or rotate.")] = KeyAction.LIST,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the public keys of certificates, or replace the signing key by a new one."""
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        if action is KeyAction.ROTATE:
            _rotate(source)
        document = source.keys()
    rows = [
        (
            each["key_id"],
            moment(each["valid_from"]),
            moment(each["retired_at"]) if each["retired_at"] else "current",
        )
        for each in document["keys"]
    ]
    notes = [] if rows else ["No key yet: a worker registers its signing key when it starts."]
    screen.listing(document, table("key", "valid from", "retired", rows=rows, whole=(0,)), *notes)


def _rotate(source: Source) -> None:
    installation = source.installation
    if installation is None:
        raise BadInputError(
            "The signing key is replaced on the machine that has its file. Run the command there,"
            " without --url."
        )
    with installation.uow() as uow:
        signing_keys.rotate(uow, installation.settings)
