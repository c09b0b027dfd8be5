"""`lethe report` writes a page, and `lethe verify` checks the page: every change is found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.services.signatures import Signer
from app.services.signing_keys import keys_document
from app.web.certificate_page import certificate_page
from tests.support.certificates import full_content
from tests.support.command_line import document, lethe
from tests.support.restorable import check

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.restorable import Restorable


@pytest.fixture
def request_id(on_sqlite: Restorable) -> str:
    completed = on_sqlite.forget("ann")
    on_sqlite.complete()
    return completed


@pytest.fixture
def page(request_id: str, tmp_path: Path) -> Path:
    path = tmp_path / "pages" / "page.html"
    path.parent.mkdir()
    assert document("report", request_id, "--out", str(path)) == {"file": str(path)}
    return path


def refused(path: Path) -> str:
    """Return the message of the refusal."""
    ended = lethe("verify", str(path))
    assert ended.exit_code in {1, 2}, ended.stdout
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    return line


def test_page_is_written_under_its_name_and_verified(
    request_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = lethe("report", request_id)
    path = tmp_path / f"certificate-{request_id}-1.html"
    assert (ended.exit_code, path.name in ended.stdout) == (0, True)
    answer = document("verify", str(path))
    assert (answer["valid"], answer["payload"]["request_id"]) == (True, request_id)
    assert lethe("report", request_id, "--out", "-").stdout == path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert "error" in document("report", request_id, "--out", "-")
    certificate = document("requests", "certificate", request_id)
    assert document("requests", "certificate", request_id, "--out", "-") == certificate
    assert not (tmp_path / "-").exists()


def test_page_is_verified_with_a_saved_key_on_another_machine(
    page: Path, on_sqlite: Restorable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = on_sqlite.run(lambda uow, _: keys_document(uow.signing_keys.all()))
    saved = tmp_path / "keys.json"
    saved.write_text(json.dumps(keys))
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "elsewhere"))
    assert lethe("verify", str(page), "--key", str(saved)).exit_code == 0
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("All data of one person", "All data of each person"),
        ("<body>", "<body><p>Certified by an authority.</p>"),
        (".muted,", ".finding { display: none; } .muted,"),
        ("</main>", "</main><script src='http://evil.example/x.js'></script>"),
        ('content="lethe ', 'content="lethe 9.'),
        ("<title>", "<title> "),
    ],
)
def test_changed_text_around_a_valid_certificate_is_found(page: Path, old: str, new: str) -> None:
    text = page.read_text()
    assert old in text
    page.write_text(text.replace(old, new, 1))
    assert "Do not rely on its text" in refused(page)


def test_changed_envelope_is_found(page: Path) -> None:
    text = page.read_text()
    at = text.index('"sig": "') + len('"sig": "')
    page.write_text(f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}")
    assert "not valid" in refused(page)


def test_envelope_of_another_deletion_is_found(
    page: Path, on_sqlite: Restorable, tmp_path: Path
) -> None:
    other = on_sqlite.forget("bob")
    on_sqlite.complete()
    other_page = tmp_path / "other.html"
    document("report", other, "--out", str(other_page))

    def line(path: Path) -> str:
        return next(each for each in path.read_text().splitlines() if each.startswith('{"payload'))

    page.write_text(page.read_text().replace(line(page), line(other_page)))
    assert "Do not rely on its text" in refused(page)


def test_page_with_no_or_two_certificates_is_refused(page: Path) -> None:
    text = page.read_text()
    script = text[text.index("<script") : text.index("</body>")]
    page.write_text(text.replace("</body>", f"{script}</body>"))
    assert "embeds 2 certificates" in refused(page)
    page.write_text("<!doctype html><p>Hello")
    assert "embeds 0 certificates" in refused(page)
    page.write_text("<!doctype html><![odd[x]]>")
    assert "without a certificate" in refused(page)
    page.write_bytes(b"<\xff\xfe")
    assert "without a certificate" in refused(page)


def test_line_ends_of_other_systems_are_accepted(page: Path) -> None:
    page.write_bytes(b"\xef\xbb\xbf" + page.read_bytes().replace(b"\n", b"\r\n"))
    assert lethe("verify", str(page)).exit_code == 0


def test_line_ends_in_texts_of_the_certificate_are_accepted(tmp_path: Path) -> None:
    signer = Signer(Ed25519PrivateKey.generate())
    key, path = tmp_path / "key.pem", tmp_path / "page.html"
    key.write_bytes(signer.public_pem())
    content = full_content("one\r\ntwo\rthree\nfour", key_id=signer.key_id)
    page = certificate_page(signer.sign(content, name="rel", sha256="d" * 64))
    for text in (page, page.replace("\r\n", "\n"), page.replace("four", "five", 1)):
        path.write_bytes(text.encode())
        is_same = "five" not in text
        assert (lethe("verify", str(path), "--key", str(key)).exit_code == 0) is is_same


def test_pages_are_certificates_for_restore_check(page: Path, request_id: str) -> None:
    status, answer = check("--certificates", str(page.parent))
    (saved,) = answer["certificates"]
    assert (status, saved["result"], saved["request_id"]) == (0, "matches", request_id)
    page.write_text("<![odd[x]]>")
    _, answer = check("--certificates", str(page.parent))
    assert [each["result"] for each in answer["certificates"]] == ["no-certificate"]


def test_link_is_followed_and_not_replaced(request_id: str, tmp_path: Path) -> None:
    """As root, a replaced /dev/stdout would break every other program."""
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_text("")
    link.symlink_to(target)
    assert lethe("report", request_id, "--out", str(link)).exit_code == 0
    assert link.is_symlink()
    assert lethe("verify", str(target)).exit_code == 0


def test_errors_leave_an_existing_file_as_it_is(
    request_id: str, on_sqlite: Restorable, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text("precious")
    open_request = on_sqlite.forget("bob")
    for arguments, status in (
        ((open_request, "--out", str(path)), 1),
        (("req_0", "--out", str(path)), 1),
        ((request_id, "--number", "9", "--out", str(path)), 1),
        ((request_id, "--out", str(tmp_path / "missing" / "page.html")), 1),
        ((request_id, "--out", str(tmp_path)), 1),
    ):
        ended = lethe("report", *arguments)
        assert (ended.exit_code, ended.stdout, len(ended.stderr.splitlines())) == (status, "", 1)
    assert path.read_text() == "precious"
    assert not list(tmp_path.glob(".*"))
