"""`lethe restore-check`: restored databases, damaged ledgers, saved certificates, bad input."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli import certificate_files, restore_check
from app.cli.installation import open_installation
from app.domain.catalog import Interaction
from app.domain.jobs import JobStatus, Stage
from app.domain.requests import Outcome, RequestStatus
from app.services import jobs
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.secrets import load_signer
from app.services.signatures import Signer
from app.services.suppression import record_consent
from app.settings import get_settings
from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.backups import DatabaseBackup
from tests.support.command_line import document, lethe
from tests.support.first_version_certificates import sign_first_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.storage.unit_of_work import UnitOfWork

PEOPLE = ("ann", "bob", "cid", "dan")
ITEMS = ("i1", "i2", "i3")


@dataclass
class Restorable:
    """An installation without a release, whose database and files tests put back."""

    home: Path
    certificates: Path

    def run(self, action: Callable[[UnitOfWork, Any], Any]) -> Any:
        with open_installation(get_settings()) as opened, opened.uow() as uow:
            return action(uow, opened)

    def forget(self, user_id: str, *items: str, item_id: str | None = None) -> str:
        def action(uow: UnitOfWork, opened: Any) -> str:
            command = ForgetCommand.of(user_id if item_id is None else None, items, item_id)
            return request_forget(uow, opened.pseudonyms, opened.settings, command)[0].id

        return str(self.run(action))

    def complete(self) -> None:
        """Complete the open requests as a worker does before the first release."""
        settings = get_settings()
        with open_installation(settings) as opened:
            with opened.uow() as uow:
                assert jobs.close_batch(uow, settings) is not None
            with opened.uow() as uow:
                claimed = jobs.claim(uow, "t", settings)
            assert claimed is not None
            with opened.uow() as uow:
                jobs.advance(uow, claimed[1], status=JobStatus.PUBLISHING)
                jobs.advance(uow, claimed[1], status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
                finish(uow, claimed[1], load_signer(settings), Evidence(outcome=Outcome.PASSED))

    def save(self, request_id: str, name: str | None = None) -> Path:
        """Save the newest certificate of the request as a file."""
        certificates = self.envelopes(request_id)
        path = self.certificates / (name or f"{request_id}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(certificates[-1]))
        return path

    def envelopes(self, request_id: str) -> list[dict[str, Any]]:
        def action(uow: UnitOfWork, _opened: Any) -> list[dict[str, Any]]:
            return [each.envelope for each in uow.certificates.of_request(request_id)]

        return list(self.run(action))

    def back_up(self) -> DatabaseBackup:
        with open_installation(get_settings()) as opened:
            return DatabaseBackup.of(opened.uow.database)

    def put_back(self, backup: DatabaseBackup, user_id: str | None = None) -> None:
        """Restore without opening the installation, which would apply the ledger; add a user."""
        database = make_database(get_settings().sqlalchemy_url)
        backup.restore(database)
        with UnitOfWorkFactory(database)() as uow:
            uow.people.ensure_users([] if user_id is None else [user_id])
        database.dispose()

    def status_of(self, request_id: str) -> RequestStatus:
        return RequestStatus(self.run(lambda uow, _: uow.requests.get(request_id).status))

    @property
    def ledger(self) -> Path:
        return self.home.with_name(f"{self.home.name}-ledger")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres])])
def installation(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Restorable:
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
        monkeypatch.setenv("LETHE_DATABASE_URL", request.getfixturevalue("postgres_url"))
    return filled(Restorable(home, tmp_path / "saved"), monkeypatch)


@pytest.fixture
def on_sqlite(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restorable:
    return filled(Restorable(home, tmp_path / "saved"), monkeypatch)


def filled(installation: Restorable, monkeypatch: pytest.MonkeyPatch) -> Restorable:
    monkeypatch.setattr(restore_check, "_PAUSE", 0.0)
    monkeypatch.setenv("LETHE_CANCEL_WINDOW", "0")
    monkeypatch.setenv("LETHE_BATCH_SECONDS", "0")
    get_settings.cache_clear()

    def fill(uow: UnitOfWork, _opened: Any) -> None:
        uow.people.upsert_items([(item, item, {}) for item in ITEMS])
        uow.people.ensure_users(PEOPLE)
        uow.people.upsert_interactions(
            [
                Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=9)
                for user_id in PEOPLE
                for item_id in ITEMS
            ],
            uow.state.bump("interactions"),
        )

    installation.run(fill)
    return installation


def check(*arguments: str) -> tuple[int, dict[str, Any]]:
    ended = lethe("restore-check", "--json", *arguments)
    return ended.exit_code, json.loads(ended.stdout)


def codes(answer: dict[str, Any]) -> dict[str, Any]:
    return {finding["code"]: finding for finding in answer["findings"]}


class TestLedger:
    """The database against the ledger."""

    def test_all_is_well_before_and_after_a_deletion(self, installation: Restorable) -> None:
        assert check()[0] == 0
        request_id = installation.forget("ann")
        assert check()[0] == 0
        installation.complete()
        status, answer = check()
        assert (status, answer["status"]) == (0, "ok")
        assert answer["ledger"]["last_entry"] == answer["ledger"]["database_head"] == 2
        assert request_id not in json.dumps(answer)
        assert "Nothing is missing" in lethe("restore-check").stdout

    def test_restored_database_is_compared_and_not_changed(self, installation: Restorable) -> None:
        backup = installation.back_up()
        forgotten = installation.forget("ann")
        pairs = installation.forget("cid", "i1", "i2")
        item = installation.forget("", item_id="i3")
        installation.complete()
        withdrawn = installation.forget("bob")
        installation.run(lambda uow, _: cancel_forget(uow, withdrawn))
        installation.put_back(backup)

        status, answer = check()

        assert (status, answer["status"]) == (3, "repeat")
        found = codes(answer)
        assert set(found) == {"ledger-ahead", "missing", "cancellations", "stored"}
        assert found["missing"]["request_ids"] == sorted([forgotten, pairs, item])
        assert found["cancellations"]["request_ids"] == [withdrawn]
        assert (found["stored"]["persons"], found["stored"]["pairs"]) == (1, 2)
        assert found["stored"]["items"] == 1
        assert answer["ledger"]["database_head"] is None or not answer["ledger"]["database_head"]
        text = lethe("restore-check").stdout
        assert "repeats this by itself" in text
        assert not any(name in text + json.dumps(answer) for name in (*PEOPLE, *ITEMS))
        # The check has changed nothing.
        assert check() == (status, answer)

    def test_deletion_that_is_being_repeated_is_reported_until_it_is_completed(
        self, installation: Restorable
    ) -> None:
        backup = installation.back_up()
        request_id = installation.forget("ann")
        installation.complete()
        installation.put_back(backup)
        assert installation.status_of(request_id) is not RequestStatus.COMPLETED

        status, answer = check()

        assert status == 3
        assert codes(answer)["repeating"]["request_ids"] == [request_id]
        installation.complete()
        assert check()[0] == 0

    def test_consented_person_is_not_reported(self, installation: Restorable) -> None:
        installation.forget("ann")
        installation.complete()
        backup = installation.back_up()
        installation.run(lambda uow, opened: record_consent(uow, opened.pseudonyms, "ann"))
        installation.run(lambda uow, _: uow.people.ensure_users(["ann"]))
        assert check()[0] == 0
        installation.put_back(backup, "ann")

        status, answer = check()

        assert status == 3
        assert set(codes(answer)) == {"ledger-ahead", "consents"}

    def test_subject_that_is_stored_against_its_tombstone_is_found(
        self, installation: Restorable
    ) -> None:
        request_id = installation.forget("ann")
        installation.complete()
        installation.run(lambda uow, _: uow.people.ensure_users(["ann"]))
        status, answer = check()
        assert status == 3
        assert codes(answer)["stored-again"]["request_ids"] == [request_id]

    @pytest.mark.parametrize(
        ("damage", "code"),
        [
            (lambda entries: shutil.rmtree(entries[0].parents[2]), "ledger-missing"),
            (lambda entries: entries[-1].unlink(), "ledger-behind"),
            (lambda entries: entries[0].unlink(), "ledger-damaged"),
            (lambda entries: entries[0].write_bytes(b"{}"), "ledger-damaged"),
            (lambda entries: entries[-1].write_bytes(b""), "ledger-damaged"),
        ],
        ids=["missing", "behind", "gap", "altered", "truncated"],
    )
    def test_damage_has_a_status_of_its_own(
        self,
        on_sqlite: Restorable,
        damage: Callable[[list[Path]], None],
        code: str,
    ) -> None:
        on_sqlite.forget("ann")
        on_sqlite.complete()
        damage(sorted(on_sqlite.ledger.glob("*/entries/*/*.json")))

        status, answer = check()

        assert (status, answer["status"]) == (4, "damaged")
        assert code in codes(answer)
        assert "own copy" in lethe("restore-check").stdout

    def test_new_ledger_is_written_only_on_request(self, on_sqlite: Restorable) -> None:
        request_id = on_sqlite.forget("ann")
        on_sqlite.complete()
        refused = lethe("restore-check", "--new-ledger")
        assert refused.exit_code == 2
        assert "move what is left" in refused.stdout.replace("\n", " ")
        on_sqlite.ledger.rename(on_sqlite.ledger.with_name("kept"))
        assert lethe("jobs").exit_code == 1

        ended = lethe("restore-check", "--new-ledger")

        assert ended.exit_code == 0
        assert "A new ledger was written" in ended.stdout
        assert check()[0] == 0
        assert lethe("jobs").exit_code == 0
        # The new ledger repeats the deletion in a restored database.
        assert on_sqlite.status_of(request_id) is RequestStatus.COMPLETED


class TestArtifacts:
    """Files of the artifact store."""

    def test_files_of_unknown_releases_and_jobs_are_reported(self, on_sqlite: Restorable) -> None:
        artifacts = on_sqlite.home / "artifacts"
        for relative in ("releases/rel_1.job_1.1", "adapters/rel_1", "staging/job_1/1"):
            (artifacts / relative).mkdir(parents=True)

        status, answer = check()

        assert status == 3
        paths = ["releases/rel_1.job_1.1", "adapters/rel_1", "staging/job_1"]
        assert codes(answer)["artifacts-left"]["paths"] == paths

    def test_store_that_does_not_exist_is_not_created(self, on_sqlite: Restorable) -> None:
        assert not (on_sqlite.home / "artifacts").exists()
        assert check()[0] == 0
        assert not (on_sqlite.home / "artifacts").exists()


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
        assert "--key" in refused.stdout
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
        assert message in ended.stdout
        assert len(ended.stdout.strip().splitlines()) == 1

    def test_empty_directory_is_refused(self, on_sqlite: Restorable) -> None:
        load_signer(get_settings())
        on_sqlite.certificates.mkdir()
        ended = lethe("restore-check", "--certificates", str(on_sqlite.certificates))
        assert ended.exit_code == 2
        assert "holds no file" in ended.stdout

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
        assert "Permission denied" in ended.stdout


class TestKeys:
    """The hash key and the database must belong together."""

    def test_missing_database_and_missing_hash_key_are_named(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended = lethe("restore-check")
        assert ended.exit_code == 2
        assert "There is no hash key" in ended.stdout
        assert not home.exists()
        monkeypatch.setenv("LETHE_HASH_KEY", "a key for tests, thirty-two bytes")
        ended = lethe("restore-check")
        assert ended.exit_code == 2
        assert "There is no database" in ended.stdout
        assert not home.exists()

    def test_another_hash_key_is_refused(
        self, on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_sqlite.forget("ann")
        monkeypatch.setenv("LETHE_HASH_KEY", "another key for tests, long enough")
        answer = document("restore-check")
        assert answer["error"]["code"] == "key-mismatch"

    def test_database_of_another_version_is_named(self, on_sqlite: Restorable) -> None:
        with open_installation(get_settings()) as opened:
            with opened.uow.database.write.begin() as connection:
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
            ended = lethe("restore-check")
        assert ended.exit_code == 1
        assert "another version of Lethe" in ended.stdout
        assert on_sqlite.home.exists()
