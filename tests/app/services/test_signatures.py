"""Certificates verify only unchanged, with a trusted key and within the key's validity."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from app.domain.errors import InvalidCertificateError
from app.services.signatures import (
    PREDICATE_TYPE,
    Signer,
    TrustedKey,
    canonical_json,
    verify,
    verify_certificate,
)
from tests.support.first_version_certificates import sign_first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNER = Signer(Ed25519PrivateKey.generate())
DIGEST = hashlib.sha256(b"weights").hexdigest()
#: 3.0 is the number that JavaScript and jq write as 3.
CONTENT: dict[str, Any] = {
    "request_id": "req_1",
    "figures": {"auc": 3.0, "small": 1e-7, "interval": [0.7, None]},
    "title": "é",
    "issued_at": NOW.isoformat(),
    "key_id": SIGNER.key_id,
}


@pytest.fixture
def envelope() -> dict[str, Any]:
    return SIGNER.sign(CONTENT, name="rel_2", sha256=DIGEST)


def test_envelope_is_an_in_toto_statement_in_dsse(envelope: dict[str, Any]) -> None:
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [signature["keyid"] for signature in envelope["signatures"]] == [SIGNER.key_id]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"] == [{"name": "rel_2", "digest": {"sha256": DIGEST}}]


def test_key_id_is_the_digest_of_the_public_key_in_der() -> None:
    pem = SIGNER.public_pem().decode()
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    assert SIGNER.key_id == hashlib.sha256(der).hexdigest()
    assert load_pem_public_key(pem.encode()) == SIGNER.key.public_key()


def _by_python(text: str) -> str:
    return json.dumps(json.loads(text), indent=3, sort_keys=True, ensure_ascii=False)


def _by_node(text: str) -> str:
    script = (
        "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0)),null,4))"
    )
    return _by_program("node", "-e", script, text=text)


def _by_jq(text: str) -> str:
    return _by_program("jq", "--sort-keys", ".", text=text)


def _by_program(program: str, *arguments: str, text: str) -> str:
    ended = subprocess.run(
        [program, *arguments], input=text, capture_output=True, text=True, check=True
    )
    return ended.stdout


#: A program that is not installed is not tested, as `.ci/run` counts a skipped test as a failure.
_REWRITES = [_by_python] + [
    rewrite for program, rewrite in (("node", _by_node), ("jq", _by_jq)) if shutil.which(program)
]


@pytest.mark.parametrize("rewrite", _REWRITES)
def test_certificate_rewritten_by_another_program_verifies(
    envelope: dict[str, Any], rewrite: Callable[[str], str]
) -> None:
    text = rewrite(json.dumps(envelope))
    assert verify_certificate(json.loads(text), SIGNER.public_pem()) == CONTENT


def test_verification_leaves_its_argument_unchanged(envelope: dict[str, Any]) -> None:
    before = copy.deepcopy(envelope)
    verify_certificate(envelope, SIGNER.public_pem())
    assert envelope == before


def test_not_a_number_is_signed_as_null() -> None:
    content = CONTENT | {"figures": {"auc": float("nan"), "pair": (1, 2)}}
    envelope = SIGNER.sign(content, name="rel_2", sha256=DIGEST)
    verified = verify_certificate(envelope, SIGNER.public_pem())
    assert verified["figures"] == {"auc": None, "pair": [1, 2]}


def _altered(text: str) -> Iterator[str]:
    """Yield the text with each single character replaced by a similar one."""
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 2), "A", "0"} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_every_altered_byte_is_refused(envelope: dict[str, Any]) -> None:
    """Base64 has unused bits, so a decoder alone would accept some altered signatures."""
    for altered in _altered(json.dumps(envelope)):
        try:
            document = json.loads(altered)
        except ValueError:
            continue
        if document == envelope:
            continue  # White space between the parts carries nothing.
        with pytest.raises(InvalidCertificateError):
            verify_certificate(document, SIGNER.public_pem())


def test_altered_part_is_named(envelope: dict[str, Any]) -> None:
    for change, message in (
        ({"payload": base64.b64encode(b"{}").decode()}, "signature does not match"),
        ({"payloadType": "application/json"}, "payloadType"),
        ({"signatures": []}, "no signature"),
        ({"signatures": [envelope["signatures"][0] | {"keyid": "0" * 64}]}, "key id '000"),
        ({"signatures": [envelope["signatures"][0] | {"sig": "AA=="}]}, "does not match"),
        ({"signatures": envelope["signatures"] * 2}, "malformed"),
    ):
        with pytest.raises(InvalidCertificateError, match=message):
            verify_certificate(envelope | change, SIGNER.public_pem())


def test_envelope_of_another_statement_is_refused() -> None:
    key = TrustedKey(public_key=SIGNER.key.public_key())
    for predicate in (CONTENT | {"key_id": "0" * 64}, {}):
        with pytest.raises(InvalidCertificateError, match="another signing key"):
            verify(SIGNER.sign(predicate, name="rel_2", sha256=DIGEST), [key])


def test_key_inside_the_certificate_is_not_trusted() -> None:
    forger = Signer(Ed25519PrivateKey.generate())
    forged = forger.sign(CONTENT | {"key_id": forger.key_id}, name="rel_2", sha256=DIGEST)
    with pytest.raises(InvalidCertificateError, match="trusted key"):
        verify_certificate(
            forged | {"public_key": forger.public_pem().decode()}, SIGNER.public_pem()
        )
    forged["signatures"][0]["keyid"] = SIGNER.key_id
    with pytest.raises(InvalidCertificateError, match="does not match"):
        verify_certificate(forged, SIGNER.public_pem())


@pytest.mark.parametrize(
    ("valid_from", "retired_at", "message"),
    [
        (None, None, ""),
        (NOW, NOW, ""),
        (NOW - timedelta(days=1), None, ""),
        (NOW + timedelta(seconds=1), None, "before its key was valid"),
        (NOW - timedelta(days=2), NOW - timedelta(days=1), "after its key was retired"),
    ],
)
def test_signing_time_must_lie_in_the_validity_of_the_key(
    envelope: dict[str, Any],
    valid_from: datetime | None,
    retired_at: datetime | None,
    message: str,
) -> None:
    key = TrustedKey(
        public_key=SIGNER.key.public_key(), valid_from=valid_from, retired_at=retired_at
    )
    if not message:
        assert verify(envelope, [key]).key_id == SIGNER.key_id
        return
    with pytest.raises(InvalidCertificateError, match=message):
        verify(envelope, [key])


@pytest.mark.parametrize("issued_at", [None, 5, "yesterday", "2026-01-01T00:00:00"])
def test_certificate_without_signing_time_is_refused_where_the_key_has_limits(
    issued_at: object,
) -> None:
    envelope = SIGNER.sign(CONTENT | {"issued_at": issued_at}, name="rel_2", sha256=DIGEST)
    key = TrustedKey(public_key=SIGNER.key.public_key(), valid_from=NOW)
    with pytest.raises(InvalidCertificateError, match="when it was signed"):
        verify(envelope, [key])


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        "text",
        {"payload": 1},
        {"payload": {}, "algorithm": "none", "signature": ""},
        {"payload": {}, "algorithm": "Ed25519"},
        {"payload": {}, "algorithm": "Ed25519", "signature": 7},
        {"payload": {}, "algorithm": "Ed25519", "signature": "%%%"},
        {"payload": {"x": float("nan")}, "algorithm": "Ed25519", "signature": "AA=="},
        {"payload": {}, "algorithm": "Ed25519", "signature": base64.b64encode(b"0" * 64).decode()},
        {"payloadType": "application/vnd.in-toto+json"},
        {"signatures": 1, "payload": "e30=", "payloadType": "application/vnd.in-toto+json"},
        {"signatures": [1], "payload": "e30=", "payloadType": "application/vnd.in-toto+json"},
        {"signatures": [{"sig": "AA=="}], "payload": "e30=", "payloadType": []},
        {"signatures": [{"sig": "é", "keyid": 1}], "payload": "e30=", "payloadType": "x"},
        {"signatures": [{"sig": "AA==", "keyid": []}], "payload": "e30=", "payloadType": "x"},
    ],
)
def test_malformed_certificate_is_refused(broken: object) -> None:
    with pytest.raises(InvalidCertificateError):
        verify_certificate(broken, SIGNER.public_pem())


def test_malformed_public_key_is_refused(envelope: dict[str, Any]) -> None:
    with pytest.raises(InvalidCertificateError):
        verify_certificate(envelope, b"not a key")


class TestFirstVersion:
    """Certificates of earlier versions, whose JSON content is signed."""

    @pytest.fixture
    def certificate(self) -> dict[str, Any]:
        return sign_first_version(SIGNER, CONTENT | {"completed_at": NOW.isoformat()})

    def test_unchanged_certificate_verifies(self, certificate: dict[str, Any]) -> None:
        read = json.loads(json.dumps(certificate, indent=3))
        assert verify_certificate(read, SIGNER.public_pem())["request_id"] == "req_1"

    def test_numbers_rewritten_by_a_browser_are_explained(
        self, certificate: dict[str, Any]
    ) -> None:
        certificate["payload"] = copy.deepcopy(certificate["payload"])
        certificate["payload"]["figures"]["auc"] = 3
        with pytest.raises(InvalidCertificateError, match="Download the certificate again"):
            verify_certificate(certificate, SIGNER.public_pem())

    @pytest.mark.parametrize(
        ("key", "value"), [("request_id", "req_2"), ("title", ""), ("extra", 1)]
    )
    def test_changed_content_is_refused(
        self, certificate: dict[str, Any], key: str, value: object
    ) -> None:
        changed = certificate | {"payload": certificate["payload"] | {key: value}}
        with pytest.raises(InvalidCertificateError, match=r"does not match the key\.$"):
            verify_certificate(changed, SIGNER.public_pem())

    def test_key_retired_before_the_completion_is_refused(
        self, certificate: dict[str, Any]
    ) -> None:
        key = TrustedKey(
            public_key=SIGNER.key.public_key(),
            valid_from=NOW + timedelta(days=1),  # The key is older than the record of its validity.
            retired_at=NOW + timedelta(days=2),
        )
        assert verify(certificate, [key]).version == 1
        late = TrustedKey(public_key=SIGNER.key.public_key(), retired_at=NOW - timedelta(seconds=1))
        with pytest.raises(InvalidCertificateError, match="retired"):
            verify(certificate, [late])


def test_canonical_json_sorts_keys_and_escapes_non_ascii() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5]}'
