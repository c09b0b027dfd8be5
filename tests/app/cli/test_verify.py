"""`lethe verify`: valid, altered, foreign and malformed files. `lethe keys`: list and rotate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli import certificate_files
from app.cli.installation import open_installation
from app.services.secrets import load_signer
from app.services.signatures import Signer
from app.services.signing_keys import keys_document, register
from app.settings import get_settings
from tests.support.command_line import document, lethe
from tests.support.first_version_certificates import sign_first_version

if TYPE_CHECKING:
    from app.domain.certificates import SigningKey

FIXTURE = Path(__file__).parents[2] / "fixtures" / "earlier_installation"


def registered_keys() -> list[SigningKey]:
    """Register this installation's signing key as a worker does; return all keys."""
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        register(uow, load_signer(get_settings()))
        return uow.signing_keys.all()


def content(signer: Signer, issued_at: str) -> dict[str, Any]:
    return {
        "request_id": "req_1",
        "outcome": "passed",
        "figures": {"auc": 3.0},
        "rows_deleted": {"interactions": 2},
        "issued_at": issued_at,
        "key_id": signer.key_id,
    }


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a certificate that was signed when the installation's key became valid."""
    (key,) = registered_keys()
    signer = load_signer(get_settings())
    predicate = content(signer, key.valid_from.isoformat())
    path = tmp_path / "certificate.json"
    envelope = signer.sign(predicate, name="rel_1", sha256=hashlib.sha256().hexdigest())
    path.write_text(json.dumps(envelope))
    return path


def test_signature_is_valid_under_the_installations_key(certificate: Path) -> None:
    answer = document("verify", str(certificate))
    assert answer["valid"] is True
    assert answer["payload"]["request_id"] == "req_1"
    assert answer["subject"][0]["name"] == "rel_1"
    text = lethe("verify", str(certificate)).stdout
    assert "Valid" in text
    assert "interactions 2" in text
    assert answer["key_id"] in text


@pytest.fixture
def second(certificate: Path, tmp_path: Path) -> Path:
    """Return a certificate that cites the other one."""
    return citing(certificate, tmp_path / "second.json")


def citing(certificate: Path, path: Path, **changes: Any) -> Path:
    """Write a certificate whose citation of `certificate` has these changes; return its path."""
    signer = load_signer(get_settings())
    envelope = json.loads(certificate.read_text())
    # What `jq -cjS . | sha256sum` computes, as docs/guides/certificates.md says.
    text = json.dumps(envelope, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    cites = {"number": 1, "sha256": hashlib.sha256(text.encode()).hexdigest()} | changes
    predicate = content(signer, registered_keys()[0].valid_from.isoformat())
    predicate |= {"kind": "exact", "number": 2, "cites": cites}
    envelope = signer.sign(predicate, name="rel_2", sha256=hashlib.sha256().hexdigest())
    path.write_text(json.dumps(envelope, indent=2))
    return path


def test_second_certificate_cites_the_first(certificate: Path, second: Path) -> None:
    assert lethe("verify", str(second), "--cites", str(certificate)).exit_code == 0
    other = lethe("verify", str(certificate), "--cites", str(second))
    assert other.exit_code == 1
    assert "does not cite" in other.stderr


@pytest.mark.parametrize("changes", [{"number": 2}, {"sha256": "0" * 64}])
def test_citation_of_another_certificate_is_refused(
    certificate: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = citing(certificate, tmp_path / "other.json", **changes)
    assert lethe("verify", str(other)).exit_code == 0
    assert lethe("verify", str(other), "--cites", str(certificate)).exit_code == 1


def test_cited_certificate_must_be_valid(certificate: Path, second: Path) -> None:
    altered = json.loads(certificate.read_text())
    altered["signatures"][0]["sig"] = "AAAA"
    certificate.write_text(json.dumps(altered))
    assert lethe("verify", str(second), "--cites", str(certificate)).exit_code == 1


def test_signature_is_valid_under_a_given_key(certificate: Path, tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_bytes(load_signer(get_settings()).public_pem())
    assert lethe("verify", str(certificate), "--key", str(public)).exit_code == 0


def test_saved_keys_document_verifies_without_database_and_signing_key(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "lethe-keys.json"
    saved.write_text(json.dumps(keys_document(registered_keys()), indent=1))
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "elsewhere"))
    ended = lethe("verify", str(certificate), "--key", str(saved))
    assert ended.exit_code == 0
    assert not (tmp_path / "elsewhere").exists()


def test_certificate_of_a_retired_key_verifies_if_it_was_signed_before(
    certificate: Path, tmp_path: Path
) -> None:
    rotated = document("keys", "rotate")["keys"]
    assert [key["retired_at"] is None for key in rotated] == [False, True]
    assert document("keys")["keys"] == rotated
    assert lethe("verify", str(certificate)).exit_code == 0
    saved = tmp_path / "lethe-keys.json"
    saved.write_text(json.dumps({"keys": rotated}))
    assert lethe("verify", str(certificate), "--key", str(saved)).exit_code == 0
    # The same certificate, had the key been retired before: no clock of the reader is involved.
    rotated[0] |= {"retired_at": "2000-01-01T00:00:00+00:00"}
    saved.write_text(json.dumps({"keys": rotated}))
    ended = lethe("verify", str(certificate), "--key", str(saved))
    assert ended.exit_code == 1
    assert "retired" in ended.stderr


def test_keys_are_listed_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No key yet" in lethe("keys").stderr
    (key,) = registered_keys()
    assert key.key_id in lethe("keys").stdout
    monkeypatch.setenv("COLUMNS", "60")  # Narrower than a key id, of which a part is of no use.
    (line,) = lethe("keys").stdout.splitlines()
    assert (line.split("\t")[0], line.split("\t")[2]) == (key.key_id, "current")


@pytest.mark.parametrize("part", ["payload", "sig", "keyid"])
def test_one_altered_byte_is_refused(certificate: Path, part: str) -> None:
    text = certificate.read_text()
    at = text.index(f'"{part}": "') + len(part) + 5
    certificate.write_text(f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}")
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == 1
    assert "not valid" in ended.stderr


def test_another_key_is_not_trusted(certificate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Signer(Ed25519PrivateKey.generate()).public_pem())
    ended = lethe("verify", str(certificate), "--key", str(other))
    assert ended.exit_code == 1
    assert "key id" in ended.stderr


def test_certificate_of_an_earlier_version_verifies() -> None:
    arguments = (str(FIXTURE / "certificate.json"), "--key", str(FIXTURE / "public.pem"))
    assert document("verify", *arguments)["payload"]["version"] == 1
    assert "Valid" in lethe("verify", *arguments).stdout


def test_earlier_certificate_saved_by_a_browser_is_explained(tmp_path: Path) -> None:
    """JavaScript writes 3.0 as 3, which changes what the earlier format signs."""
    signer = load_signer(get_settings())
    signed = sign_first_version(signer, {"figures": {"auc": 3.0}})
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(signed).replace("3.0", "3"))
    ended = lethe("verify", str(path))
    assert ended.exit_code == 1
    assert "Download the certificate again with curl" in " ".join(ended.stderr.split())


def test_missing_signing_key_is_not_created(tmp_path: Path, home: Path) -> None:
    certificate = tmp_path / "certificate.json"
    certificate.write_text("{}")
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == 2
    assert "--key" in ended.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 2, "is empty"),
        (b" \n", 2, "is empty"),
        (b"hello", 2, "is not JSON"),
        (b"\xff\xfe\x00", 2, "is not JSON"),
        (b"[" * 100_000, 2, "is not JSON"),
        (b'{"payload": 1, "payload": 2}', 2, "the same name twice"),
        (b"[]", 1, "not a JSON object"),
        (b"5", 1, "not a JSON object"),
        (b'{"keys": []}', 1, "no payload object"),
        (b'{"payloadType": "application/vnd.in-toto+json"}', 1, "envelope is malformed"),
    ],
)
def test_file_that_is_no_certificate_is_refused_in_one_line(
    certificate: Path, data: bytes, status: int, message: str
) -> None:
    certificate.write_bytes(data)
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == status
    assert message in " ".join(ended.stderr.split())


def test_oversized_file_is_refused_without_reading_all_of_it(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_files, "MOST_BYTES", 2**20)
    with certificate.open("wb") as file:
        file.truncate(2**40)  # A sparse file.
    ended = lethe("verify", str(certificate))
    assert ended.exit_code == 2
    assert "more than 1 MiB" in ended.stderr


def test_missing_file_and_directory_are_refused_in_one_line(tmp_path: Path) -> None:
    registered_keys()
    for path in (tmp_path / "missing.json", tmp_path):
        ended = lethe("verify", str(path))
        assert ended.exit_code == 1
        assert str(path) in ended.stderr.replace("\n", "")


@pytest.mark.parametrize("data", [b"", b"{", b'{"keys": 1}', b"-----BEGIN PUBLIC KEY-----"])
def test_malformed_key_file_is_refused(certificate: Path, tmp_path: Path, data: bytes) -> None:
    key = tmp_path / "key"
    key.write_bytes(data)
    ended = lethe("verify", str(certificate), "--key", str(key))
    assert ended.exit_code in {1, 2}
    assert "key" in ended.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "holds no usable key"),
        (b'{"keys": 5}', "The key file has no keys"),
        (b'{"keys": [{"public_key": "x"}]}', "entry of the key file is malformed"),
    ],
)
def test_file_without_a_key_is_named_instead_of_the_certificate(
    certificate: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    key = tmp_path / "key.txt"
    key.write_bytes(data)
    ended = lethe("verify", str(certificate), "--key", str(key))
    text = " ".join(ended.stderr.split())
    assert ended.exit_code == 2
    assert message in text
    assert "certificate is not valid" not in text


def test_the_sentence_about_the_person_comes_first(certificate: Path, tmp_path: Path) -> None:
    """A certificate without a finding is of an earlier version, which judged whole batches."""
    text = lethe("verify", str(certificate)).stdout
    assert "The audit passed for the batch as a whole, which does not show whether" in text
    signer = load_signer(get_settings())
    sentence = "The audit cannot tell from 6 rows whether this person was forgotten: [too few]."
    predicate = content(signer, registered_keys()[0].valid_from.isoformat())
    predicate |= {"finding": {"sentence": sentence}, "outcome": "inconclusive"}
    envelope = signer.sign(predicate, name="rel_1", sha256=hashlib.sha256().hexdigest())
    path = tmp_path / "with-a-finding.json"
    path.write_text(json.dumps(envelope))
    _, second_line, *_ = lethe("verify", str(path)).stdout.splitlines()
    assert second_line == sentence
