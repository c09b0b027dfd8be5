"""The platform: full logs, closed descriptors, network file systems, homes, keys and variables."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.errors import (
    DamagedDatabaseError,
    InvalidInputError,
    KeyMismatchError,
    NewerSchemaError,
)
from app.domain.outbox import Topic
from app.private_files import protect_home
from app.services.secrets import HASH_KEY_FILE, check_hash_key, load_pseudonyms
from app.settings import Settings, read_settings, unknown_variables
from app.storage import engine
from app.storage.engine import file_system_of, make_database
from app.storage.migrate import migrate

if TYPE_CHECKING:
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory

ROOT = Path(__file__).parents[2]
_LOGGING = """
import sys
from app.logs import configure_logging
configure_logging("INFO")
import structlog
structlog.get_logger("x").info("an event", text="y" * 100_000)
sys.stderr.write("plain")
print("served")
"""


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>/dev/null"])
def test_process_survives_a_log_that_cannot_be_written(redirection: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": _LOGGING, "PY": sys.executable}
    process = subprocess.run(
        ["sh", "-c", f'"$PY" -c "$CODE" {redirection}'],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "served\n")


@pytest.mark.parametrize(
    "module",
    [
        ["app.cli", "jobs"],
        ["app.gateway"],
        ["app.probe", "gateway"],
        ["app.probe", "worker"],
        ["worker", "run"],
        ["celery", "--app", "worker.celery_app", "report"],
        ["alembic", "upgrade", "head"],
    ],
    ids=" ".join,
)
def test_an_invalid_setting_ends_every_process_with_one_sentence(
    module: list[str], tmp_path: Path
) -> None:
    given = {"LETHE_HOME": str(tmp_path), "LETHE_HASH_KEY": "a secret", "LETHE_PORT": "none"}
    process = subprocess.run(
        [sys.executable, "-m", *module],
        env={**os.environ, **given},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == (1 if module[0] == "app.probe" else 2)
    assert "The settings are not valid. LETHE_PORT: " in process.stderr
    assert "Traceback" not in process.stderr
    assert "secret" not in process.stdout + process.stderr


def test_the_log_level_may_be_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_LOG_LEVEL", "warning")
    assert read_settings().log_level == "WARNING"


MOUNTS = (
    "/dev/sda1 / ext4 rw 0 0\n"
    "server:/home /home nfs4 rw 0 0\n"
    "//nas/x /mnt/my\\040share cifs rw 0 0\n"
    "me@host:/ /mnt/ssh fuse.sshfs rw 0 0\n"
    "/dev/sdb1 /home/local xfs rw 0 0\n"
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/lethe.db", "ext4"),
        ("/home/a/lethe.db", "nfs4"),
        ("/homes/lethe.db", "ext4"),
        ("/mnt/my share/lethe.db", "cifs"),
        ("/mnt/ssh/a/b", "fuse.sshfs"),
        ("/home/local/lethe.db", "xfs"),
    ],
)
def test_file_system_of_the_deepest_mount_is_found(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs rw 0 0\n")
    monkeypatch.setattr(engine, "_MOUNTS", mounts)
    with pytest.raises(InvalidInputError, match=r"network file system nfs.*PostgreSQL"):
        make_database(f"sqlite:///{tmp_path / 'lethe.db'}")
    assert not (tmp_path / "lethe.db").exists()


def test_unusable_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "home", Path("/proc/lethe")):
        with pytest.raises(InvalidInputError, match=r"LETHE_HOME=.* cannot be used"):
            protect_home(Settings(home=home))


def test_lost_hash_key_leaves_no_new_key_behind(
    tmp_path: Path, uow_factory: UnitOfWorkFactory
) -> None:
    settings = Settings(home=tmp_path)
    key = settings.keys_directory / HASH_KEY_FILE
    with uow_factory() as uow:
        check_hash_key(uow, load_pseudonyms(settings))
    kept = key.read_bytes()
    key.unlink()
    with uow_factory() as uow, pytest.raises(KeyMismatchError):
        check_hash_key(uow, load_pseudonyms(settings))
    assert not key.exists()
    key.write_bytes(b"another key of the operator")
    with uow_factory() as uow, pytest.raises(KeyMismatchError):
        check_hash_key(uow, load_pseudonyms(settings))
    assert key.exists()
    key.write_bytes(kept)
    with uow_factory() as uow:
        check_hash_key(uow, load_pseudonyms(settings))


def test_unknown_variable_is_named_with_the_nearest_setting() -> None:
    environment = {
        "LETHE_CANCEL_WINDOWS": "3",
        "LETHE_XYZZY": "1",
        "LETHE_HOME": "/x",
        "LETHE_LOOK_ROWS": "1",
        "LETHE_URL": "http://x",
        "PATH": "/bin",
    }
    assert unknown_variables(environment) == [
        "LETHE_CANCEL_WINDOWS is no setting and has no effect. Did you mean LETHE_CANCEL_WINDOW?",
        "LETHE_XYZZY is no setting and has no effect.",
    ]


def test_file_that_is_no_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "lethe.db"
    path.write_bytes(b"no database " * 400)
    database = make_database(f"sqlite:///{path}")
    with pytest.raises(DamagedDatabaseError, match="Restore a backup"):
        migrate(database)
    database.dispose()


@pytest.mark.parametrize("arguments", ["doctor", "jobs --json", "--version", "--help"])
def test_full_standard_output_is_reported_without_a_traceback(
    tmp_path: Path, arguments: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LETHE_HOME": str(tmp_path / "home")}
    process = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m app.cli {arguments} >/dev/full'],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "No space left on device"
    assert "Traceback" not in process.stderr


def test_database_of_a_newer_version_is_refused_in_one_sentence(database: Database) -> None:
    migrate(database)
    with database.write.begin() as connection:
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_future'"))
    try:
        with pytest.raises(NewerSchemaError, match="newer Lethe"):
            migrate(database)
    finally:
        with database.write.begin() as connection:
            connection.execute(
                text("UPDATE alembic_version SET version_num = :number"), {"number": current}
            )


def test_directory_in_place_of_the_database_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "lethe.db").mkdir()
    with pytest.raises(InvalidInputError, match=r"lethe\.db is a directory.*LETHE_DATABASE_URL"):
        make_database(f"sqlite:///{tmp_path}/lethe.db")


def test_alembic_refuses_a_newer_schema_as_lethe_does(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lethe.db"
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", "upgrade", "head"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with closing(sqlite3.connect(tmp_path / "lethe.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
    process = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("The database was made by a newer Lethe.")
    assert "Traceback" not in process.stderr


def test_repeated_wake_ups_for_one_job_do_not_pile_up(
    uow_factory: UnitOfWorkFactory, database: Database
) -> None:
    sent = 0
    for _ in range(30):  # A sweep every ten seconds.
        with uow_factory() as uow:
            uow.outbox.repeat(Topic.JOB, "job_1")
            pending = [outbox_id for outbox_id, _, _ in uow.outbox.pending(10)]
            uow.outbox.mark_sent(pending)
            sent += len(pending)
        with database.write.begin() as connection:
            connection.execute(
                text("UPDATE outbox SET created_at = created_at - 10, sent_at = sent_at - 10")
            )
    assert 3 <= sent <= 8
