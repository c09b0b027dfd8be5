"""The `lethe` commands: output, exit status, and one line for every expected error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from app.cli.installation import open_installation
from app.cli.processes import Child, Children
from app.cli.root import application
from app.cli.train import cancel_interrupted, training_summary
from app.domain.catalog import Interaction
from app.domain.jobs import JobKind, JobStatus, Stage
from app.services.jobs import advance, claim, start_training
from app.settings import get_settings
from tests.support.command_line import document, lethe
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

UNUSED_PORT = "1"  # A privileged port without a service.


@pytest.fixture
def user() -> str:
    """Store a user with two ratings."""
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.people.upsert_items([("i1", "One", {}), ("i2", "Two", {})])
        uow.people.ensure_users(["ann"])
        uow.people.upsert_interactions(
            [Interaction(user_id="ann", item_id=i, rating=4.0, timestamp=9) for i in ("i1", "i2")],
            version=0,
        )
    return "ann"


def test_help_lists_every_command() -> None:
    shown = lethe("--help").stdout
    for name in (
        *("demo", "up", "import", "train", "recommend", "forget", "consent", "jobs"),
        *("releases", "requests", "verify", "benchmark"),
    ):
        assert f" {name} " in shown
        # `lethe benchmark` replaces the process that runs it.
        assert name == "benchmark" or lethe(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "texts"),
    [
        (["--help"], 0, [" unlearning ", " serving "]),
        (["serving", "--help"], 0, ["--clients", "--replicas", "--json"]),
        (["serving", "--out", "out", "--clients", "two"], 2, ["--clients takes numbers"]),
        (["serving", "--bogus"], 2, ["--bogus"]),
    ],
)
def test_benchmark_passes_arguments_and_exit_status_through(
    arguments: list[str], status: int, texts: list[str]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", "benchmark", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status
    assert all(text in ended.stdout + ended.stderr for text in texts)


def test_lists_of_a_new_installation_are_empty_and_name_the_next_command() -> None:
    assert document("jobs") == {"items": [], "next_cursor": None}
    assert document("releases")["live"] is None
    assert "lethe train" in lethe("jobs").stderr
    assert "lethe train" in lethe("releases").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["jobs", "job_none"], 1, "The job job_none does not exist"),
        (["import", "/no/such/path"], 2, "/no/such/path does not exist"),
        (["train"], 1, "lethe import PATH"),
        (["train", "--backbone", "llama"], 2, "Known: compact, compact-t5, smollm2, hf:"),
        (["train", "--backbone", ""], 2, "Known: compact"),
        (["train", "--backbone", "hf:/no/such/model"], 2, "/no/such/model holds no language model"),
        (["forget", "unknown"], 1, "No data is stored for this user"),
        (["forget", "unknown", "--item", "1", "--suppress-unknown"], 2, "for a whole user"),
        (["consent", "unknown"], 1, "No data is stored for this user"),
        (["recommend", "ann", "--url", f"http://127.0.0.1:{UNUSED_PORT}"], 1, "lethe up"),
        (["recommend", "ann", "--url", "not an address"], 2, "http://host:8000"),
        (["verify", "/no/such/file"], 1, "/no/such/file"),
        (["demo", "--data", "/no/such/path"], 2, "--data"),
    ],
)
def test_expected_error_is_one_line_with_a_status(
    arguments: list[str], status: int, message: str
) -> None:
    ended = lethe(*arguments)
    assert ended.exit_code == status
    assert message in ended.stderr
    assert (len(ended.stderr.strip().splitlines()), ended.stdout) == (1, "")
    as_json = CliRunner().invoke(application, [*arguments, "--json"])
    assert message in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize("arguments", [["forget", "x\udcff"], ["requests", "show", "x\udcff"]])
def test_argument_that_is_not_utf8_is_bad_input(arguments: list[str]) -> None:
    result = CliRunner().invoke(application, [*arguments, "--json"])
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert (error["code"], "is not UTF-8" in error["message"]) == ("invalid-input", True)


def test_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_PORT", "many")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_PORT" in ended.stderr


def test_backbone_setting_is_checked_by_every_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LETHE_BACKBONE", "llama")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_BACKBONE: There is no backbone 'llama'. Known: compact" in ended.stderr


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("backbone", ["llama", "hf:./nowhere"])
def test_unknown_backbone_is_refused_before_a_job_is_recorded(backbone: str) -> None:
    assert lethe("train", "--backbone", backbone).exit_code == 2
    assert document("jobs")["items"] == []


def test_training_summary_counts_trained_parameters() -> None:
    test = {"model": {"auc": 0.75, "accuracy": 0.7, "log_loss": 0.5}}
    training = {"test": test, "parameters": 134_515_008, "rows": {"train": 90_000}}
    training |= {"fit_seconds": 12.0, "trainable_parameters": 460_800}
    job = {"metrics": {"tries": [{"training": training}]}, "release": "r1"}

    summary = training_summary(job)

    assert "460,800 of 134,515,008 parameters trained (0.3%), 90,000 training rows" in summary[1]
    training["trainable_parameters"] = training["parameters"]
    assert training_summary(job)[1].startswith("  134,515,008 parameters, 90,000 training rows")


def test_unsupported_database_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "mysql://localhost/lethe")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_DATABASE_URL" in ended.stderr


def test_import_reports_rejected_lines_with_file_and_line(tmp_path: Path) -> None:
    data = tmp_path / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nann,i2,many,11\nbob,i1,5,12\n")

    ended = lethe("import", str(data))

    assert ended.exit_code == 0
    assert "ratings.csv:3" in ended.stdout
    summary = document("import", str(data))
    assert (summary["lines"], summary["accepted"], summary["interactions"]) == (3, 2, 2)
    assert [group["count"] for group in summary["rejected"]] == [1]


def test_import_without_data_shows_the_importers_message(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    ended = lethe("import", str(tmp_path))
    assert ended.exit_code == 2
    assert "no format that is known" in ended.stderr


def test_repeated_forget_returns_the_first_request(user: str) -> None:
    first = document("forget", user)
    assert first["status"] == "scheduled"
    assert first["scope"] == "user"
    assert first["job_id"] is None
    assert document("forget", user)["id"] == first["id"]
    assert (first["assurance"], first["exact_at"]) == ("none", None)
    assert first["exact_due_at"] > first["created_at"]
    shown = lethe("forget", user).stdout
    assert "earlier request" in shown
    assert "exact due" in shown


def test_forget_deletes_single_items(user: str) -> None:
    assert document("forget", user, "--item", "i1", "--item", "i2")["scope"] == "user_items"
    assert lethe("forget", user, "--item", "i9").exit_code == 1


def test_forget_wait_completes_without_a_release(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first release only rows are deleted, by a worker that the command starts."""
    monkeypatch.setenv("LETHE_CANCEL_WINDOW", "0")
    monkeypatch.setenv("LETHE_BATCH_SECONDS", "0")
    completed = document("forget", user, "--wait")
    assert completed["status"] == "completed"
    assert lethe("consent", user).exit_code == 0
    assert document("consent", user) == {"lifted": 0}


def test_job_is_cancelled_by_the_command(home: Path) -> None:
    data = home.parent / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nbob,i1,5,12\n")
    document("import", str(data))
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        job_id = start_training(uow).id
    assert document("jobs", job_id)["status"] == "queued"
    cancelled = document("jobs", "cancel", job_id)
    assert (cancelled["id"], cancelled["status"]) == (job_id, "cancelled")
    assert document("jobs")["items"][0]["status"] == "cancelled"
    again = lethe("jobs", "cancel", job_id)
    assert again.exit_code == 1
    assert "has ended already" in again.stderr
    for arguments in (("jobs", "cancel"), ("jobs", job_id, "cancel")):
        assert lethe(*arguments).exit_code == 2


def test_renewal_is_listed_with_its_reason(home: Path) -> None:
    data = home.parent / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nbob,i1,5,12\n")
    document("import", str(data))
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        job_id = start_training(uow, JobKind.RENEW, {"reason": "drift"}).id
    assert document("jobs", job_id)["reason"] == "drift"
    assert "drift" in lethe("jobs").stdout
    assert "drift" in lethe("jobs", job_id).stdout


STUBBORN_CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def test_second_interrupt_kills_the_children_at_once(tmp_path: Path) -> None:
    """Without it, the command waits for a child that does not end."""
    (tmp_path / "stubborn_child.py").write_text(STUBBORN_CHILD)
    child = Child(name="child", module="stubborn_child")
    with Children(second_interrupt_kills=True) as children:
        child._process = subprocess.Popen(
            [sys.executable, str(tmp_path / "stubborn_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        children._children.append(child)
        assert child.process.stdout is not None
        assert child.process.stdout.readline() == b"ready\n"
        # Arrives while the block waits for the child.
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert child.process.returncode == -signal.SIGKILL


def test_job_past_the_flip_goes_on_after_an_interrupt(home: Path) -> None:
    data = home.parent / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nbob,i1,5,12\n")
    document("import", str(data))
    with open_installation(get_settings()) as installation:
        with installation.uow() as uow:
            job_id = start_training(uow).id
            claimed = claim(uow, "w", get_settings())
            assert claimed is not None
            advance(uow, claimed[1], status=JobStatus.ROLLING_OUT, stage=Stage.SHRED)
        message = cancel_interrupted(installation, job_id)
    assert "can no longer be cancelled" in message
    assert f"lethe jobs {job_id}" in message
    assert document("jobs", job_id)["status"] == "rolling_out"
