"""`lethe verify`: valid, changed and foreign certificates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.services.certificates import Signer
from app.services.secrets import load_signer
from app.settings import get_settings
from tests.support.command_line import document, lethe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    signer = load_signer(get_settings())
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(signer.sign({"request_id": "req_1", "outcome": "passed"})))
    return path


def test_signature_is_valid_under_the_installations_key(certificate: Path) -> None:
    answer = document("verify", str(certificate))
    assert answer == {"valid": True, "payload": {"request_id": "req_1", "outcome": "passed"}}
    assert "Valid" in lethe("verify", str(certificate)).stdout


def test_signature_is_valid_under_a_given_key(certificate: Path, tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_bytes(load_signer(get_settings()).public_pem())
    assert lethe("verify", str(certificate), "--key", str(public)).exit_code == 0


def test_changed_certificate_is_not_valid(certificate: Path) -> None:
    certificate.write_text(certificate.read_text().replace("passed", "failed"))
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == 1
    assert "not valid" in ended.stdout


def test_another_key_is_not_trusted(certificate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Signer(Ed25519PrivateKey.generate()).public_pem())
    assert lethe("verify", str(certificate), "--key", str(other)).exit_code == 1


def test_missing_signing_key_is_not_created(tmp_path: Path, home: Path) -> None:
    certificate = tmp_path / "certificate.json"
    certificate.write_text("{}")
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == 2
    assert "--key" in ended.stdout
    assert not home.exists()


def test_certificate_that_is_not_json_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("hello")
    assert lethe("verify", str(tmp_path / "note")).exit_code == 2
