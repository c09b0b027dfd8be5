"""Certificates verify only unchanged and with the right key."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.errors import InvalidCertificateError
from app.domain.jobs import Job, JobKind, JobStatus
from app.domain.requests import ForgetRequest, Outcome, RequestStatus, Scope, Subject
from app.services.certificates import (
    Evidence,
    Signer,
    canonical_json,
    certificate_payload,
    verify_certificate,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNER = Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def certificate() -> dict[str, Any]:
    request = ForgetRequest(
        id="req_1",
        scope=Scope.USER,
        subject=Subject(scope=Scope.USER, user_id="a-person"),
        subject_hashes=("hash",),
        status=RequestStatus.ROLLING_OUT,
        created_at=NOW,
        due_at=NOW,
        cancellable_until=NOW,
    )
    job = Job(
        id="job_1",
        kind=JobKind.FORGET,
        status=JobStatus.ROLLING_OUT,
        method="e2urec",
        created_at=NOW,
        release="rel_2",
        parent_release="rel_1",
    )
    evidence = Evidence(
        outcome=Outcome.PASSED,
        figures={"auc": 0.75, "interval": (0.7, float("nan"))},
        shredded={"releases/rel_1/weights.safetensors": "00"},
    )
    return SIGNER.sign(certificate_payload(request, job, evidence, NOW))


def test_certificate_verifies_after_a_json_round_trip(certificate: dict[str, Any]) -> None:
    read = json.loads(json.dumps(certificate, indent=3))
    payload = verify_certificate(read, SIGNER.public_pem())
    assert payload["release"] == "rel_2"
    assert payload["figures"]["interval"] == [0.7, None]
    assert set(certificate) == {"payload", "signature", "algorithm"}


def test_certificate_contains_no_plain_id(certificate: dict[str, Any]) -> None:
    assert "a-person" not in json.dumps(certificate)


@pytest.mark.parametrize(
    ("key", "value"),
    [("outcome", "exact"), ("subject_hashes", ["other"]), ("shredded", {}), ("extra", 1)],
)
def test_changed_payload_is_refused(certificate: dict[str, Any], key: str, value: object) -> None:
    forged = copy.deepcopy(certificate)
    forged["payload"][key] = value
    with pytest.raises(InvalidCertificateError):
        verify_certificate(forged, SIGNER.public_pem())


def test_key_inside_the_certificate_is_not_trusted(certificate: dict[str, Any]) -> None:
    forger = Signer(Ed25519PrivateKey.generate())
    forged = forger.sign(certificate["payload"]) | {"public_key": forger.public_pem().decode()}
    with pytest.raises(InvalidCertificateError):
        verify_certificate(forged, SIGNER.public_pem())


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"payload": 1},
        {"payload": {}, "algorithm": "none", "signature": ""},
        {"payload": {}, "algorithm": "Ed25519"},
        {"payload": {}, "algorithm": "Ed25519", "signature": 7},
        {"payload": {}, "algorithm": "Ed25519", "signature": "%%%"},
        {"payload": {"x": float("nan")}, "algorithm": "Ed25519", "signature": "AA=="},
        {"payload": {}, "algorithm": "Ed25519", "signature": base64.b64encode(b"0" * 64).decode()},
    ],
)
def test_malformed_certificate_is_refused(broken: object) -> None:
    with pytest.raises(InvalidCertificateError):
        verify_certificate(broken, SIGNER.public_pem())


def test_malformed_public_key_is_refused(certificate: dict[str, Any]) -> None:
    with pytest.raises(InvalidCertificateError):
        verify_certificate(certificate, b"not a key")


def test_canonical_json_sorts_keys_and_escapes_non_ascii() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5]}'
