"""`lethe doctor`: every problem is found, says what to do, and nothing is changed."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import SecretStr

from app.cli import health_checks
from app.cli.health_checks import service_checks
from app.cli.installation import open_installation
from app.domain.errors import LetheError
from app.services.secrets import load_signer
from app.services.signing_keys import register, rotate
from app.settings import get_settings
from tests.support.command_line import lethe
from tests.support.dashboard import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.gateway_world import World
    from tests.support.restorable import Restorable


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep logs of a service in this process out of the output, and take a port without one."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setenv("LETHE_PORT", "1")
    yield
    structlog.reset_defaults()


def beat() -> None:
    """Record the heartbeat of a worker."""
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.workers.beat("worker", "host", 1, 60.0)


def checks(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Return the checks by name; their status agrees with the exit status."""
    ended = lethe("doctor", *arguments, "--json")
    answer = json.loads(ended.stdout)
    problems = [check for check in answer["checks"] if not check["ok"]]
    assert (ended.exit_code, answer["ok"]) == (int(bool(problems)), not problems)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for check in answer["checks"]:
        by_name.setdefault(check["name"], []).append(check)
    return by_name


def problems(*arguments: str) -> dict[str, str]:
    """Return text and advice of each problem, by name, without the gateway that does not run."""
    found = {
        name: " ".join(f"{each['text']} {each['advice']}" for each in entries if not each["ok"])
        for name, entries in checks(*arguments).items()
    }
    return {name: text for name, text in found.items() if text and name != "gateway"}


def content(home: Path) -> dict[str, bytes]:
    files = (path for path in home.rglob("*") if path.is_file())
    # SQLite writes these two files when a reader opens the database.
    return {str(p): p.read_bytes() for p in files if p.suffix not in {".db-wal", ".db-shm"}}


def test_healthy_installation_has_no_problem_but_the_gateway(on_sqlite: Restorable) -> None:
    on_sqlite.forget("ann")
    on_sqlite.complete()
    beat()
    before = content(on_sqlite.home.parent)
    assert problems() == {}
    assert content(on_sqlite.home.parent) == before
    names = {"versions", "settings", "home", "disk", "database", "clock", "signing-key"}
    assert set(checks()) == names | {"worker", "ledger", "gateway"}
    ended = lethe("doctor")
    assert ended.stderr == "1 problem.\n"
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("problem")]
    assert line.split("\t")[1] == "gateway"
    assert "lethe up" in line


def test_machine_without_an_installation_creates_none(home: Path) -> None:
    assert "lethe import PATH" in problems()["home"]
    assert not home.exists()


def test_database_server_is_checked_without_a_data_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "postgresql+psycopg://x@127.0.0.1:1/x")
    monkeypatch.setenv("LETHE_HASH_KEY", "a key of sufficient length")
    assert set(problems()) == {"home", "database"}
    assert not home.exists()


def test_home_that_is_a_file(home: Path) -> None:
    home.write_text("")
    assert "is not a directory" in problems()["home"]


def test_home_without_rights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setattr(health_checks.os, "access", lambda *_: False)
    assert "cannot read and write" in problems()["home"]


def test_each_fault_is_one_problem_with_advice(
    on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(problems()) == {"worker"}
    assert "lethe up" in problems()["worker"]
    beat()
    monkeypatch.setenv("LETHE_HOEM", "x")
    monkeypatch.setattr(health_checks, "LEAST_SPACE", 2**80)
    monkeypatch.setattr(health_checks, "MOST_SECONDS", -1.0)
    found = problems()
    assert set(found) == {"settings", "disk", "clock"}
    assert "Did you mean LETHE_HOME?" in found["settings"]
    del on_sqlite


def test_missing_and_other_hash_keys(
    on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat()
    key = on_sqlite.home / "keys" / "hash.key"
    moved = key.rename(key.with_name("moved"))
    assert "Restore the key first" in problems()["database"]
    assert not key.exists()
    monkeypatch.setenv("LETHE_HASH_KEY", "another key of this length")
    assert "key" in problems()["database"]
    monkeypatch.delenv("LETHE_HASH_KEY")
    moved.rename(key)
    assert problems() == {}


def test_lost_and_damaged_ledgers(on_sqlite: Restorable) -> None:
    on_sqlite.forget("ann")
    beat()
    assert problems() == {}
    (entry,) = on_sqlite.ledger.rglob("000000000001.json")
    entry.write_text(entry.read_text().replace("0", "1", 1))
    assert "lethe restore-check" in problems()["ledger"]
    shutil.rmtree(on_sqlite.ledger)
    assert "lethe restore-check" in problems()["ledger"]


def test_database_that_is_none_or_of_another_version(on_sqlite: Restorable) -> None:
    database = on_sqlite.home / "lethe.db"
    database.write_text("no database at all" * 100)
    assert "database" in problems()
    database.unlink()
    assert "There is no database" in problems()["database"]
    assert not database.exists()


def test_unusable_and_retired_signing_keys(on_sqlite: Restorable) -> None:
    beat()
    key = on_sqlite.home / "keys" / "signing.pem"

    def register_and_rotate(uow: Any, opened: Any) -> None:
        register(uow, load_signer(opened.settings))
        old.write_bytes(key.read_bytes())
        rotate(uow, opened.settings)

    old = on_sqlite.home / "old.pem"
    on_sqlite.run(register_and_rotate)
    assert problems() == {}
    key.write_bytes(old.read_bytes())
    assert "was retired at" in problems()["signing-key"]
    key.write_text("rubbish")
    assert "PEM" in problems()["signing-key"]


def test_broker_that_does_not_answer(
    on_sqlite: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    del on_sqlite
    beat()
    for url in ("redis://127.0.0.1:1/0", "nonsense://x", "sqs://"):
        monkeypatch.setenv("LETHE_BROKER_URL", url)
        assert "LETHE_BROKER_URL" in problems()["broker"]


def test_service_is_checked_instead_of_this_machine(world: World, home: Path) -> None:
    with Server(world.app(api_keys=(SecretStr("the-key"),))) as url:
        found = checks("--url", url, "--key", "the-key")
        assert {name: entries[0]["ok"] for name, entries in found.items()} == {
            "gateway": False,  # No release is live.
            "key": True,
            "worker": False,
        }
        assert "lethe train" in found["gateway"][0]["advice"]
        assert "LETHE_KEY" in checks("--url", url, "--key", "wrong")["key"][0]["text"]
    assert not home.exists()


class _Service:
    url = "http://service"

    def __init__(self, **answer: Any) -> None:
        self._answer = {"reasons": [], "worker_count": 1, "warnings": None} | answer

    def readiness(self) -> dict[str, Any]:
        return self._answer

    def get(self, path: str, **_: Any) -> None:
        raise LetheError(f"{path} failed")


def test_warnings_of_the_service_are_problems() -> None:
    warning = {"code": "renewal-late", "detail": "The deadline has passed."}
    service: Any = _Service(warnings=[warning])
    found = {each.name: each.ok for each in service_checks(service, with_warnings=True)}
    assert found == {"gateway": True, "key": False, "worker": True, "renewal-late": False}
    assert {each.name for each in service_checks(service, with_warnings=False)} == {
        "gateway",
        "key",
    }
