"""`lethe verify`: check the signature of a deletion certificate offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.failures import BadInputError, command
from app.cli.options import AsJson
from app.cli.screen import Screen, facts
from app.services.secrets import SIGNING_KEY_FILE, load_signer
from app.services.signatures import verify_certificate
from app.settings import get_settings


@command
def verify(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="Certificate file.", show_default=False)
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC", help="Public key (PEM). Default: this installation's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a deletion certificate offline, against one public key."""
    screen = Screen.make(as_json=as_json)
    try:
        document = json.loads(certificate.read_bytes())
    except ValueError as error:
        raise BadInputError(f"{certificate} is not JSON: {error}") from error
    public_key = _own_public_key() if key is None else key.read_bytes()
    payload = verify_certificate(document, public_key)
    screen.result({"valid": True, "payload": payload}, *certificate_summary(payload))


def certificate_summary(payload: dict[str, Any]) -> list[Any]:
    """Return the text for a certificate whose signature is valid."""
    names = ("request_id", "scope", "completed_at", "method", "outcome", "parent_release")
    values = {name.replace("_", " "): payload.get(name) for name in (*names, "release")}
    values["shredded"] = f"{len(payload.get('shredded', {}))} files"
    values["not covered"] = "; ".join(payload.get("not_covered", ()))
    return ["[green]Valid[/green]: this key signed the certificate's content.", facts(values)]


def _own_public_key() -> bytes:
    """Return this installation's public key; raises BadInputError if there is no signing key."""
    settings = get_settings()
    # Checked first, because load_signer would create a missing key.
    if settings.signing_key is None and not (settings.keys_directory / SIGNING_KEY_FILE).exists():
        raise BadInputError(
            f"There is no signing key under {settings.keys_directory}. Give the public key of the "
            "installation that issued the certificate: --key PUBLIC"
        )
    return load_signer(settings).public_pem()
