"""`lethe demo` end to end, and its interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.cli.demo.home import MARKER
from tests.support.processes import ROOT, processes_of, wait_until

if TYPE_CHECKING:
    from tests.support.processes import Lethe

pytestmark = pytest.mark.slow


def _demo(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "demo", "--exit", "--port", "0", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


def check_renewal(document: dict[str, Any]) -> None:
    """Check the renewal, unless the audit of fast unlearning failed and the job trained exactly."""
    if document["certificate"]["assurance"] == "exact":
        assert document["certificate"]["outcome"] == "exact"
        assert document["renewal"] is document["exact_certificate"] is None
        return
    assert document["renewal"]["status"] == "succeeded"
    assert document["exact_certificate"]["cites"]["number"] == 1
    assert document["seconds_to_exact"] > document["seconds_to_completed"]
    assert document["load_during_renewal"]["failed"] == 0


def test_demo_forgets_a_user_while_others_are_served(
    environment: dict[str, str], tiny: Path
) -> None:
    ended = _demo(environment, "--data", str(tiny), "--json")

    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["import"]["interactions"] == 3600
    assert document["request"]["status"] == "completed"
    assert document["job"]["status"] == "succeeded"
    assert document["job"]["release"] != document["train"]["release"]
    assert document["load"]["failed"] == 0
    assert document["load"]["answered"] > 0
    assert document["certificate"]["request_id"] == document["request"]["id"]
    assert document["others"]["after"]["release"] == document["job"]["release"]
    assert document["certificate"]["number"] == 1
    check_renewal(document)
    wait_until(lambda: processes_of(environment["LETHE_HOME"]) == [], "a process is left")


def test_ctrl_c_ends_all_processes_and_the_next_demo_starts_fresh(
    lethe: Lethe, environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    home = Path(environment["LETHE_HOME"])
    running = lethe("demo", "--exit", "--port", "0", "--data", str(tiny))
    wait_until((home / "logs" / "worker.log").exists, "training did not begin")

    running.send_signal(signal.SIGINT)

    assert running.wait(30) == 130
    wait_until(lambda: processes_of(home) == [], "a process is left")
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
    (home / "left-over").write_text("from the run before")
    assert _demo(environment, "--data", str(tiny)).returncode == 0
    assert not (home / "left-over").exists()


def test_demo_refuses_a_directory_with_other_files(environment: dict[str, str], tiny: Path) -> None:
    home = Path(environment["LETHE_HOME"])
    home.mkdir()
    (home / "precious").write_text("user data")

    ended = _demo(environment, "--data", str(tiny))

    assert ended.returncode == 2
    assert "LETHE_HOME" in ended.stderr
    assert (home / "precious").read_text() == "user data"
    assert not (home / MARKER).exists()
