"""Certificates as earlier versions signed them: the JSON content itself, without an envelope."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from app.services.signatures import canonical_json

if TYPE_CHECKING:
    from app.services.signatures import Signer


def sign_first_version(signer: Signer, payload: dict[str, Any]) -> dict[str, Any]:
    signature = base64.b64encode(signer.key.sign(canonical_json(payload))).decode()
    return {"payload": payload, "signature": signature, "algorithm": "Ed25519"}
