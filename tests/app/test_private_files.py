"""LETHE_HOME and its files are for their owner only, also those of earlier versions."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from app.cli.processes import module_environment
from app.private_files import protect_home
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_home_and_database_are_created_for_the_owner_only(settings: Settings) -> None:
    protect_home(settings)
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    with database.write.begin() as connection:  # A transaction, so that -wal and -shm exist.
        connection.exec_driver_sql("UPDATE state SET data_version = 1")
        files = sorted(settings.home.glob("lethe.db*"))
        assert [path.name for path in files] == ["lethe.db", "lethe.db-shm", "lethe.db-wal"]
        assert {mode(path) for path in files} == {0o600}
    database.dispose()
    assert mode(settings.home) == 0o700


def test_files_of_an_earlier_version_are_tightened(settings: Settings) -> None:
    for name in ("artifacts", "cache", "logs"):
        (settings.home / name).mkdir(parents=True)
    files = [settings.home / name for name in ("lethe.db", "lethe.db-wal", "logs/worker.log")]
    for path in files:
        path.touch()
    assert {mode(path) for path in files} == {0o644}
    protect_home(settings)
    assert {mode(path) for path in files} == {0o600}
    for path in (settings.home, *(settings.home / name for name in ("artifacts", "cache", "logs"))):
        assert mode(path) == 0o700


def test_home_of_another_user_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: settings.home.stat().st_uid + 1)
    protect_home(settings)
    assert mode(settings.home) == 0o755


@pytest.mark.slow
def test_command_creates_files_for_the_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = module_environment(LETHE_HOME=str(home))
    command = [sys.executable, "-m", "app.cli", "jobs"]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert mode(home) == 0o700
    paths = list(home.rglob("*"))
    assert home / "lethe.db" in paths
    assert {mode(path) & 0o077 for path in paths} == {0}


@pytest.mark.slow
def test_worker_creates_files_for_the_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = module_environment(LETHE_HOME=str(home))
    for module, *arguments in (["app.cli", "jobs"], ["worker", "run", "--until-idle"]):
        command = [sys.executable, "-m", module, *arguments]
        subprocess.run(command, env=environment, capture_output=True, check=True)
    paths = list(home.rglob("*"))
    assert home / "keys" / "signing.pem" in paths
    assert home / "artifacts" in paths
    assert {mode(path) & 0o077 for path in paths} == {0}
