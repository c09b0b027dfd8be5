"""Deletion certificates: their content, signature, verification and retrieval.

Verification needs only the certificate and the public key, not a running service.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.domain.errors import CertificateNotReadyError, InvalidCertificateError
from app.domain.json_values import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.domain.jobs import Job
    from app.domain.requests import ForgetRequest, Outcome
    from app.storage.unit_of_work import UnitOfWork

ALGORITHM: Final = "Ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts about a batch of deletions that a certificate states."""

    outcome: Outcome
    figures: dict[str, Any] = field(default_factory=dict)
    #: Path → SHA-256 of each unlinked file.
    shredded: dict[str, str] = field(default_factory=dict)
    #: Places that may still hold the data and that Lethe cannot erase, such as backups.
    not_covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of certificates, with the installation's Ed25519 key."""

    key: Ed25519PrivateKey = field(repr=False)

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the certificate: the payload, its signature and the name of the algorithm."""
        json_payload = plain(payload)
        signature = base64.b64encode(self.key.sign(canonical_json(json_payload))).decode()
        return {"payload": json_payload, "signature": signature, "algorithm": ALGORITHM}


def certificate_payload(
    request: ForgetRequest, job: Job, evidence: Evidence, completed_at: datetime
) -> dict[str, Any]:
    """Return the payload for one request. It identifies the subject by keyed hashes only."""
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
    """Return the encoding that is signed: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def verify_certificate(certificate: Any, public_pem: bytes) -> dict[str, Any]:
    """Return the payload if this key signed it; raise InvalidCertificateError otherwise.

    Only `public_pem` is trusted. A key inside the certificate is ignored.
    """
    if not isinstance(certificate, dict) or not isinstance(certificate.get("payload"), dict):
        raise InvalidCertificateError(reason="it has no payload object")
    if certificate.get("algorithm") != ALGORITHM:
        raise InvalidCertificateError(reason=f"its algorithm is not {ALGORITHM}")
    payload: dict[str, Any] = certificate["payload"]
    try:
        signature = base64.b64decode(certificate.get("signature", ""), validate=True)
        message = canonical_json(payload)
    except (TypeError, ValueError) as error:
        raise InvalidCertificateError(reason="it is malformed") from error
    try:
        _load_public_key(public_pem).verify(signature, message)
    except InvalidSignature as error:
        raise InvalidCertificateError(reason="the signature does not match the key") from error
    return payload


def _load_public_key(pem: bytes) -> Ed25519PublicKey:
    """Return an Ed25519 public key, or raise InvalidCertificateError."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise InvalidCertificateError(reason="the public key is not in PEM format") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidCertificateError(reason=f"the public key is not an {ALGORITHM} key")
    return key


def certificate_of(uow: UnitOfWork, request_id: str) -> dict[str, Any]:
    """Return the signed certificate, or raise CertificateNotReadyError before completion."""
    request = uow.requests.get(request_id)
    if request.certificate is None:
        raise CertificateNotReadyError(status=request.status)
    return request.certificate
