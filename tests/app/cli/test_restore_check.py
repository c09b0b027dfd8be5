"""`lethe restore-check`: restored databases, damaged ledgers, foreign files, wrong keys."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from app.cli.installation import open_installation
from app.domain.requests import RequestStatus
from app.services.forget import cancel_forget
from app.services.suppression import record_consent
from app.settings import get_settings
from tests.support.command_line import document, lethe
from tests.support.restorable import Restorable, check, codes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


PEOPLE = ("ann", "bob", "cid", "dan")
ITEMS = ("i1", "i2", "i3")


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
        assert "move what is left" in refused.stderr.replace("\n", " ")
        on_sqlite.ledger.rename(on_sqlite.ledger.with_name("kept"))
        assert lethe("jobs").exit_code == 4

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


class TestKeys:
    """The hash key and the database must belong together."""

    def test_missing_database_and_missing_hash_key_are_named(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended = lethe("restore-check")
        assert ended.exit_code == 2
        assert "There is no hash key" in ended.stderr
        assert not home.exists()
        monkeypatch.setenv("LETHE_HASH_KEY", "a key for tests, thirty-two bytes")
        ended = lethe("restore-check")
        assert ended.exit_code == 2
        assert "There is no database" in ended.stderr
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
        assert "another version of Lethe" in ended.stderr
        assert on_sqlite.home.exists()
