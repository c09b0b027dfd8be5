"""`lethe keys`: list the public keys of certificates, and rotate the signing key."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from app.cli.failures import command
from app.cli.installation import open_installation
from app.cli.options import AsJson
from app.cli.screen import Screen, moment, table
from app.services import signing_keys
from app.settings import get_settings


class KeyAction(StrEnum):
    """`list`: show the keys; `rotate`: replace the signing key by a new one."""

    LIST = "list"
    ROTATE = "rotate"


@command
def keys(
    action: Annotated[KeyAction, typer.Argument(help="List the keys, or rotate.")] = KeyAction.LIST,
    as_json: AsJson = False,
) -> None:
    """List the public keys of certificates, or replace the signing key by a new one."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    with open_installation(settings) as installation, installation.uow() as uow:
        if action is KeyAction.ROTATE:
            signing_keys.rotate(uow, settings)
        document = signing_keys.keys_document(uow.signing_keys.all())
    rows = [
        (
            key["key_id"],
            moment(key["valid_from"]),
            moment(key["retired_at"]) if key["retired_at"] else "current",
        )
        for key in document["keys"]
    ]
    no_keys = "No key yet: a worker registers its signing key when it starts."
    screen.result(document, table("key", "valid from", "retired", rows=rows) if rows else no_keys)
