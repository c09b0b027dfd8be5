"""Certificates of deletion: what they say, how they are signed, how they are checked offline."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.domain.errors import InvalidCertificateError
from app.domain.json_values import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.domain.jobs import Job
    from app.domain.requests import ForgetRequest, Outcome

ALGORITHM: Final = "Ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was done for a batch, as far as a certificate tells it."""

    outcome: Outcome
    figures: dict[str, Any] = field(default_factory=dict)
    #: File name → SHA-256 of what was unlinked.
    shredded: dict[str, str] = field(default_factory=dict)
    #: What no software above the file system can promise here; the gatherer knows the place.
    not_covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with the installation's Ed25519 key."""

    key: Ed25519PrivateKey = field(repr=False)

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def key_id(self) -> str:
        """Return the SHA-256 of the raw public key, to tell keys apart; it proves nothing."""
        raw = self.key.public_key().public_bytes_raw()
        return hashlib.sha256(raw).hexdigest()

    def sign(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the certificate: the payload, its signature and the algorithm's name."""
        clean = plain(payload)
        signature = base64.b64encode(self.key.sign(canonical_json(clean))).decode()
        return {"payload": clean, "signature": signature, "algorithm": ALGORITHM}


def certificate_payload(
    request: ForgetRequest, job: Job, evidence: Evidence, completed_at: datetime
) -> dict[str, Any]:
    """Return what a certificate states about one request; it names the subject by hash only."""
    return {
        "type": "lethe/deletion",
        "version": 1,
        "request_id": request.id,
        "scope": request.scope.value,
        "subject_hashes": sorted(request.subject_hashes),
        "requested_at": request.created_at.isoformat(),
        "completed_at": completed_at.isoformat(),
        "job_id": job.id,
        "method": job.method,
        "release": job.release,
        "parent_release": job.parent_release,
        "outcome": evidence.outcome.value,
        "figures": evidence.figures,
        "shredded": evidence.shredded,
        "not_covered": list(evidence.not_covered),
    }


def canonical_json(value: Any) -> bytes:
    """Return the one encoding that is signed: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def verify_certificate(certificate: Any, public_pem: bytes) -> dict[str, Any]:
    """Return the payload if this key signed it, else raise InvalidCertificateError.

    Only `public_pem` is trusted; a key that comes along with the certificate is ignored.
    """
    if not isinstance(certificate, dict) or not isinstance(certificate.get("payload"), dict):
        raise InvalidCertificateError(reason="it has no payload")
    if certificate.get("algorithm") != ALGORITHM:
        raise InvalidCertificateError(reason=f"its algorithm is not {ALGORITHM}")
    payload: dict[str, Any] = certificate["payload"]
    try:
        signature = base64.b64decode(certificate.get("signature", ""), validate=True)
        message = canonical_json(payload)
    except (TypeError, ValueError) as error:
        raise InvalidCertificateError(reason="it is malformed") from error
    try:
        load_public_key(public_pem).verify(signature, message)
    except InvalidSignature as error:
        raise InvalidCertificateError(reason="the signature does not match the key") from error
    return payload


def load_public_key(pem: bytes) -> Ed25519PublicKey:
    """Read an Ed25519 public key, or raise InvalidCertificateError."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise InvalidCertificateError(reason="the public key cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidCertificateError(reason=f"the public key is not an {ALGORITHM} key")
    return key
