"""Sign and verify certificates and checkpoints: DSSE envelopes that hold in-toto statements.

The envelope holds the statement as base64 text, so a program that reads and writes the JSON file
again (a browser, jq) does not change what was signed. Certificates of earlier versions sign their
JSON content and verify only unchanged. Verification needs no running service.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from app.domain.errors import InvalidCertificateError
from app.domain.json_values import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALGORITHM: Final = "Ed25519"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
#: A name, not an address: no page can ever appear under `.invalid` (RFC 2606).
PREDICATE_TYPE: Final = "https://lethe.invalid/deletion/v2"
_NO_MATCH: Final = "the signature does not match the key"
_REWRITTEN: Final = (
    f"{_NO_MATCH}. Its figures contain whole numbers: a browser or jq that saves this older kind of"
    " certificate writes 3.0 as 3. Download the certificate again with curl"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key that the reader of a certificate trusts, with its validity if known."""

    public_key: Ed25519PublicKey
    valid_from: datetime | None = None
    retired_at: datetime | None = None

    @property
    def key_id(self) -> str:
        return key_id_of(self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCertificate:
    """A certificate whose signature is valid. `version` is 1 for the format before DSSE."""

    version: int
    key_id: str
    content: dict[str, Any]
    #: The release that the statement is about; empty for version 1.
    subject: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of certificates, with the installation's Ed25519 key."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def key_id(self) -> str:
        return key_id_of(self.key.public_key())

    def public_pem(self) -> bytes:
        return public_pem_of(self.key.public_key())

    def sign(
        self,
        predicate: Mapping[str, Any],
        *,
        name: str,
        sha256: str,
        predicate_type: str = PREDICATE_TYPE,
    ) -> dict[str, Any]:
        """Return the signed envelope of a statement about the subject with this name and digest."""
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": sha256}}],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
        envelope = Envelope(canonical_json(plain(statement)), PAYLOAD_TYPE, {})
        public_key = SSlibKey.from_crypto(self.key.public_key(), keyid=self.key_id)
        envelope.sign(CryptoSigner(self.key, public_key))
        document: dict[str, Any] = envelope.to_dict()
        return document


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo in DER, in hexadecimal."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def public_pem_of(key: Ed25519PublicKey) -> bytes:
    """Return the key's SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_public_key(pem: bytes) -> Ed25519PublicKey:
    """Return an Ed25519 public key, or raise InvalidCertificateError."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise InvalidCertificateError(reason="the public key is not in PEM format") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidCertificateError(reason=f"the public key is not an {ALGORITHM} key")
    return key


def canonical_json(value: Any) -> bytes:
    """Return the encoding that is signed: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def verify_certificate(certificate: Any, public_pem: bytes) -> dict[str, Any]:
    """Return the content if this key signed the certificate, else raise InvalidCertificateError."""
    key = TrustedKey(public_key=load_public_key(public_pem))
    return verify(certificate, [key]).content


def verify(certificate: Any, keys: Sequence[TrustedKey]) -> VerifiedCertificate:
    """Verify the signature with the trusted keys; raise InvalidCertificateError if it fails.

    Only `keys` are trusted. A key inside the certificate is ignored.
    """
    if not isinstance(certificate, dict):
        raise InvalidCertificateError(reason="it is not a JSON object")
    if "payloadType" in certificate or "signatures" in certificate:
        return verify_envelope(certificate, keys)
    return _verify_first_version(certificate, keys)


def verify_envelope(
    document: dict[str, Any], keys: Sequence[TrustedKey], predicate_type: str = PREDICATE_TYPE
) -> VerifiedCertificate:
    """Verify an envelope whose statement is of this type; raise InvalidCertificateError."""
    envelope = _envelope(document)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidCertificateError(reason=f"its payloadType is not {PAYLOAD_TYPE}")
    trusted = {key.key_id: key for key in keys}
    signing_ids = [key_id for key_id in envelope.signatures if key_id in trusted]
    if not signing_ids:
        stated = next(iter(envelope.signatures))[:64]
        raise InvalidCertificateError(
            reason=f"its key id {stated!r} is not the id of a trusted key"
        )
    verifiers: list[Key] = [
        SSlibKey.from_crypto(trusted[key_id].public_key, keyid=key_id) for key_id in signing_ids
    ]
    try:
        accepted = envelope.verify(verifiers, 1)
    except VerificationError as error:
        raise InvalidCertificateError(reason=_NO_MATCH) from error
    key = trusted[next(iter(accepted))]
    statement = _statement(envelope.payload, predicate_type)
    predicate: dict[str, Any] = statement["predicate"]
    if predicate.get("key_id") != key.key_id:
        raise InvalidCertificateError(reason="its content names another signing key")
    _check_validity(key, _instant_or_none(predicate.get("issued_at")), check_start=True)
    return VerifiedCertificate(
        version=2, key_id=key.key_id, content=predicate, subject=tuple(statement["subject"])
    )


def _envelope(document: dict[str, Any]) -> Envelope:
    """Return the envelope; raise InvalidCertificateError if a field is missing or malformed."""
    try:
        _check_base64(document["payload"])
        for signature in document["signatures"]:
            _check_base64(signature["sig"])
            signature["keyid"].encode("ascii")
        # A copy, because `from_dict` changes its argument.
        envelope = Envelope.from_dict(copy.deepcopy(document))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidCertificateError(reason="its envelope is malformed") from error
    if not envelope.signatures:
        raise InvalidCertificateError(reason="it has no signature")
    return envelope


def _check_base64(text: str) -> None:
    """Raise ValueError unless `text` is the only base64 text of its bytes.

    Decoders ignore the unused bits of the last character, so a changed text could verify.
    """
    if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
        raise ValueError("not canonical base64")


def _statement(payload: bytes, predicate_type: str) -> dict[str, Any]:
    """Return the in-toto statement of a verified envelope."""
    statement = json.loads(payload)
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise InvalidCertificateError(reason=f"its statement is not of the type {STATEMENT_TYPE}")
    if statement.get("predicateType") != predicate_type:
        raise InvalidCertificateError(
            reason=f"its predicateType is not {predicate_type}; use a newer version of Lethe"
        )
    return statement


def _verify_first_version(
    certificate: dict[str, Any], keys: Sequence[TrustedKey]
) -> VerifiedCertificate:
    """Verify a certificate of the format before DSSE, whose content is signed as JSON."""
    payload = certificate.get("payload")
    if not isinstance(payload, dict):
        raise InvalidCertificateError(reason="it has no payload object and no DSSE envelope")
    if certificate.get("algorithm") != ALGORITHM:
        raise InvalidCertificateError(reason=f"its algorithm is not {ALGORITHM}")
    try:
        _check_base64(certificate["signature"])
        signature = base64.b64decode(certificate["signature"])
        message = canonical_json(payload)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCertificateError(reason="it is malformed") from error
    for key in keys:
        try:
            key.public_key.verify(signature, message)
        except InvalidSignature:
            continue
        # This format names no signing time, which is only known to follow the completion.
        _check_validity(key, _instant_or_none(payload.get("completed_at")), check_start=False)
        return VerifiedCertificate(version=1, key_id=key.key_id, content=payload)
    is_rewritten = _has_whole_number(payload.get("figures"))
    raise InvalidCertificateError(reason=_REWRITTEN if is_rewritten else _NO_MATCH)


def _has_whole_number(value: Any) -> bool:
    if isinstance(value, dict | list):
        elements = value.values() if isinstance(value, dict) else value
        return any(_has_whole_number(element) for element in elements)
    return isinstance(value, int) and not isinstance(value, bool)


def instant(text: str) -> datetime:
    """Return the time of a signed document; raise ValueError if it has no time zone."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError
    return time


def _instant_or_none(text: Any) -> datetime | None:
    try:
        return instant(text)
    except (TypeError, ValueError):
        return None


def _check_validity(key: TrustedKey, signed_at: datetime | None, *, check_start: bool) -> None:
    """Raise InvalidCertificateError if the key was not valid at the signing time."""
    is_limited = key.retired_at is not None or (check_start and key.valid_from is not None)
    if not is_limited:
        return
    if signed_at is None:
        raise InvalidCertificateError(reason="it does not state when it was signed")
    if check_start and key.valid_from is not None and signed_at < key.valid_from:
        raise InvalidCertificateError(
            reason=f"it was signed at {signed_at}, before its key was valid ({key.valid_from})"
        )
    if key.retired_at is not None and signed_at > key.retired_at:
        raise InvalidCertificateError(
            reason=f"it was signed at {signed_at}, after its key was retired ({key.retired_at})"
        )
