"""`lethe restore-check --certificates`: every kind of certificate, and bad files."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli import certificate_files
from app.domain.certificates import CertificateKind
from app.domain.requests import Assurance, RequestStatus
from app.services.certificates import content_of, issue
from app.services.secrets import load_signer
from app.services.signatures import Signer
from app.settings import get_settings
from tests.support.command_line import lethe
from tests.support.first_version_certificates import sign_first_version
from tests.support.restorable import Restorable, check, codes

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWork

PEOPLE = ("ann", "bob", "cid", "dan")
ITEMS = ("i1", "i2", "i3")


class TestCertificates:
    """Saved certificates."""

    def test_restore_without_ledger_is_found_and_repaired(self, installation: Restorable) -> None:
        backup = installation.back_up()
        request_id = installation.forget("ann")
        pairs = installation.forget("bob", "i1")
        installation.complete()
        installation.save(request_id)
        installation.save(pairs, "deep/down/pairs.json")
        installation.put_back(backup)
        shutil.rmtree(installation.ledger)
        saved = str(installation.certificates)
        assert check()[0] == 0  # Neither the database nor the ledger knows anything.

        status, answer = check("--certificates", saved)

        assert (status, answer["status"]) == (3, "act")
        assert {c["result"] for c in answer["certificates"]} == {"missing"}
        assert codes(answer)["stored"]["request_ids"] == sorted([request_id, pairs])
        assert "--apply" in lethe("restore-check", "--certificates", saved).stdout

        status, answer = check("--certificates", saved, "--apply")

        assert status == 3
        assert sorted(answer["recorded"]) == sorted([request_id, pairs])
        assert {c["result"] for c in answer["certificates"]} == {"repeating"}
        installation.complete()
        status, answer = check("--certificates", saved)
        assert (status, {c["result"] for c in answer["certificates"]}) == (0, {"matches"})
        users = installation.run(lambda uow, _: set(uow.identity.user_ids()))
        assert users == {"bob", "cid", "dan"}
        rated = installation.run(lambda uow, _: [row.item_id for row in uow.people.history("bob")])
        assert rated == ["i2", "i3"]
        # A second call and a second restore change nothing and repeat, respectively.
        assert check("--certificates", saved, "--apply")[1]["recorded"] == []
        installation.put_back(backup)
        assert installation.status_of(request_id) is RequestStatus.BATCHED

    def test_request_that_the_database_has_open_is_repeated(self, on_sqlite: Restorable) -> None:
        request_id = on_sqlite.forget("ann")
        backup = on_sqlite.back_up()
        on_sqlite.complete()
        on_sqlite.save(request_id)
        on_sqlite.put_back(backup)
        on_sqlite.ledger.rename(on_sqlite.ledger.with_name("lost"))
        saved = ("--certificates", str(on_sqlite.certificates))
        status, answer = check(*saved)
        assert status == 4
        assert set(codes(answer)) == {"ledger-missing", "stored", "certificates-older"}

        status, answer = check(*saved, "--new-ledger", "--apply")

        assert (status, answer["recorded"]) == (3, [request_id])
        on_sqlite.complete()
        assert check(*saved)[0] == 0

    def test_all_kinds_of_certificates_are_compared(self, on_sqlite: Restorable) -> None:
        request_id = on_sqlite.forget("ann")
        on_sqlite.complete()
        on_sqlite.save(request_id, "1.json")

        def set_assurance(assurance: Assurance) -> None:
            def action(uow: UnitOfWork, _opened: Any) -> None:
                request = uow.requests.get(request_id)
                uow.requests.change_status(request, [RequestStatus.COMPLETED], assurance=assurance)

            on_sqlite.run(action)

        def issue_next(kind: CertificateKind) -> None:
            def action(uow: UnitOfWork, _opened: Any) -> None:
                request = uow.requests.get(request_id)
                content = content_of(uow.certificates.of_request(request_id)[0].envelope)
                issue(uow, load_signer(get_settings()), request, kind, content)

            on_sqlite.run(action)

        issue_next(CertificateKind.SCRUB_CLOSED)
        on_sqlite.save(request_id, "2.json")
        issue_next(CertificateKind.EXACT)
        on_sqlite.save(request_id, "3.json")

        def results() -> list[tuple[str, int, str]]:
            answer = check("--certificates", str(on_sqlite.certificates))[1]
            return [(c["kind"], c["number"], c["result"]) for c in answer["certificates"]]

        set_assurance(Assurance.APPROXIMATE)
        assert results() == [
            ("deletion", 1, "matches"),
            ("scrub-closed", 2, "matches"),
            ("exact", 3, "older"),
        ]
        set_assurance(Assurance.EXACT)
        assert [result for _, _, result in results()] == ["matches"] * 3

    def test_every_file_has_a_result(
        self, on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request_id = on_sqlite.forget("ann")
        on_sqlite.complete()
        good = on_sqlite.save(request_id)
        envelope = json.loads(good.read_text())
        directory = on_sqlite.certificates
        stranger = Signer(Ed25519PrivateKey.generate())
        foreign = stranger.sign({"request_id": "req_1"}, name="rel_1", sha256="0" * 64)
        own = load_signer(get_settings()).sign(
            {"request_id": "req_2", "key_id": load_signer(get_settings()).key_id},
            name="rel_1",
            sha256="0" * 64,
        )
        entry = {"number": 1, "kind": "deletion", "certificate": envelope}
        files: dict[str, str] = {
            "copy.json": json.dumps(envelope),
            "list.json": json.dumps({"items": [entry, {**entry, "certificate": foreign}]}),
            "foreign.json": json.dumps(foreign),
            "altered.json": json.dumps({**envelope, "payload": "e30="}),
            "without-fields.json": json.dumps(own),
            "notes.txt": "a note",
            "keys.json": "{}",
            "empty.json": "",
            "cut.json": json.dumps(envelope)[:200],
            "first-version.json": json.dumps(
                sign_first_version(
                    load_signer(get_settings()),
                    {
                        "request_id": request_id,
                        "scope": "user",
                        "subject_hashes": ["0" * 64],
                        "completed_at": "2026-01-01T00:00:00+00:00",
                    },
                )
            ),
        }
        for name, content in files.items():
            (directory / name).write_text(content)
        os.mkfifo(directory / "pipe")
        (directory / "gone").symlink_to(directory / "nowhere")
        monkeypatch.setattr(certificate_files, "MOST_BYTES", 2**20)
        with (directory / "huge.json").open("wb") as file:
            file.truncate(2**40)  # A sparse file.

        status, answer = check("--certificates", str(directory))

        assert status == 4
        results = {c["file"]: c["result"] for c in answer["certificates"]}
        assert results == {
            "altered.json": "invalid",
            "copy.json": "matches",
            "cut.json": "unreadable",
            "empty.json": "unreadable",
            "first-version.json": "conflict",
            "foreign.json": "untrusted",
            "gone": "unreadable",
            "huge.json": "unreadable",
            "keys.json": "no-certificate",
            "list.json#1": "duplicate",
            "list.json#2": "untrusted",
            "notes.txt": "no-certificate",
            "pipe": "unreadable",
            f"{request_id}.json": "duplicate",
            "without-fields.json": "invalid",
        }
        assert "huge.json" in lethe("restore-check", "--certificates", str(directory)).stdout

    def test_certificates_of_another_installation_need_its_key(self, on_sqlite: Restorable) -> None:
        backup = on_sqlite.back_up()
        request_id = on_sqlite.forget("ann")
        on_sqlite.complete()
        on_sqlite.save(request_id)
        own = load_signer(get_settings()).public_pem()
        on_sqlite.put_back(backup)
        shutil.rmtree(on_sqlite.ledger)
        (on_sqlite.home / "keys" / "signing.pem").unlink()
        saved = str(on_sqlite.certificates)
        refused = lethe("restore-check", "--certificates", saved)
        assert refused.exit_code == 2
        assert "--key" in refused.stderr
        load_signer(get_settings())  # The next start creates another key.

        status, answer = check("--certificates", saved, "--apply")

        assert (status, answer["recorded"]) == (3, [])
        assert answer["certificates"][0]["result"] == "untrusted"
        key = on_sqlite.home.parent / "public.pem"
        key.write_bytes(own)
        assert check("--certificates", saved, "--key", str(key), "--apply")[1]["recorded"] == [
            request_id
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--certificates", "/no/such/directory"], "is not a directory"),
            (["--certificates", __file__], "is not a directory"),
            (["--key", __file__], "holds no usable key"),
            (["--apply"], "needs --certificates"),
        ],
    )
    @pytest.mark.usefixtures("on_sqlite")
    def test_bad_input_is_one_line(self, arguments: list[str], message: str) -> None:
        load_signer(get_settings())
        ended = lethe("restore-check", *arguments)
        assert ended.exit_code == 2
        assert message in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1

    def test_empty_directory_is_refused(self, on_sqlite: Restorable) -> None:
        load_signer(get_settings())
        on_sqlite.certificates.mkdir()
        ended = lethe("restore-check", "--certificates", str(on_sqlite.certificates))
        assert ended.exit_code == 2
        assert "holds no file" in ended.stderr

    def test_directory_without_access_is_refused_or_reported(
        self, on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request_id = on_sqlite.forget("ann")
        on_sqlite.complete()
        saved = on_sqlite.save(request_id, "open/a.json")
        locked = on_sqlite.certificates / "locked"
        locked.mkdir()
        scan = os.scandir

        def without_access(path: Any) -> Any:
            if str(path) == str(locked):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", without_access)
        status, answer = check("--certificates", str(on_sqlite.certificates))
        assert status == 3
        assert [(c["file"], c["result"]) for c in answer["certificates"]] == [
            (str(saved.relative_to(on_sqlite.certificates)), "matches"),
            ("locked", "unreadable"),
        ]
        ended = lethe("restore-check", "--certificates", str(locked))
        assert ended.exit_code == 2
        assert "Permission denied" in ended.stderr
