"""Signed checkpoints of the erasure ledger: statements about the digest of an entry.

A checkpoint covers its entry and, through the chain of digests, all entries before. It proves to
readers without the hash key that the ledger was not rewritten since.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidCertificateError
from app.domain.ledger import LedgerHead
from app.services.signatures import canonical_json, verify_envelope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.services.signatures import Signer, TrustedKey

#: A name, not an address, as the type of certificates.
CHECKPOINT_TYPE: Final = "https://lethe.invalid/ledger-checkpoint/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReference:
    """The number of a checkpoint's entry, and the SHA-256 of the checkpoint's bytes."""

    number: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The verified content of a checkpoint."""

    head: LedgerHead
    key_id: str
    issued_at: str
    #: None for the first checkpoint.
    previous: CheckpointReference | None


def reference_to(number: int, content: bytes) -> CheckpointReference:
    """Return the reference to a checkpoint with these bytes."""
    return CheckpointReference(number=number, sha256=hashlib.sha256(content).hexdigest())


def sign_checkpoint(
    signer: Signer, head: LedgerHead, issued_at: datetime, previous: CheckpointReference | None
) -> bytes:
    """Return the bytes of a signed checkpoint of this entry."""
    predicate = {
        "number": head.number,
        "digest": head.digest,
        "issued_at": issued_at.isoformat(),
        "key_id": signer.key_id,
        "previous": None
        if previous is None
        else {"number": previous.number, "sha256": previous.sha256},
    }
    name = f"entry {head.number} of the erasure ledger"
    return canonical_json(
        signer.sign(predicate, name=name, sha256=head.digest, predicate_type=CHECKPOINT_TYPE)
    )


def verify_checkpoint(content: bytes, keys: Sequence[TrustedKey]) -> Checkpoint:
    """Return the content if a trusted key signed the checkpoint; raise InvalidCertificateError."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise InvalidCertificateError(reason="it is not a JSON object")
        predicate = verify_envelope(document, keys, CHECKPOINT_TYPE).content
        stated = predicate["previous"]
        return Checkpoint(
            head=LedgerHead(number=predicate["number"], digest=predicate["digest"]),
            key_id=predicate["key_id"],
            issued_at=predicate["issued_at"],
            previous=None if stated is None else CheckpointReference(**stated),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidCertificateError(reason="it is malformed") from error
