"""`lethe benchmark` as a real process: interrupted, killed, resumed and completed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import application
from tests.support.processes import PATIENCE_SECONDS, ROOT, processes_of, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.slow

VERDICTS = {"passed", "failed", "inconclusive"}


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    base = ["unlearning", "--data", str(data), "--out", str(out)]
    small = ["--seeds", "1", "--retrain-runs", "4", "--shadows", "0"]
    return [*base, "--methods", "original,e2urec-fast", *small, *more]


def benchmark(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(application, arguments(data, out, *more), catch_exceptions=False)


def start(data: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start the command; its processes are identified by their LETHE_HOME."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "app.cli", "benchmark"),
            *arguments(data, out, "--shadows", "1", "--json"),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_in(out: Path) -> dict[str, str]:
    return {place.stem: place.read_text() for place in (out / "runs").glob("*.json")}


def stop_after_runs(process: subprocess.Popen[str], out: Path, number: int, signum: int) -> None:
    wait_until(
        lambda: len(runs_in(out)) >= number or process.poll() is not None, "no run was finished"
    )
    assert process.poll() is None, process.communicate()
    process.send_signal(signum)


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """20 users who rate one after another, so that some rate only after the training period."""
    chance = random.Random(7)
    rows = [
        f"u{user},i{item},{chance.choice([1, 2, 4, 5])},{user * 10**6 + position}"
        for user in range(20)
        for position, item in enumerate(chance.sample(range(30), 20))
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(["user,item,rating,timestamp", *rows]) + "\n")
    return path


@pytest.mark.timeout(900)  # Three whole processes, each of which loads torch.
@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_stopped_benchmark_resumes_after_its_finished_runs(
    small_data: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped = start(small_data, out, environment)
    stop_after_runs(stopped, out, 1, signal.SIGINT)
    stdout, stderr = stopped.communicate(timeout=PATIENCE_SECONDS)
    assert stopped.returncode == 130
    assert "the same command goes on" in json.loads(stdout)["error"]["message"]
    assert "Traceback" not in stderr, stderr
    before = runs_in(out)
    assert 1 <= len(before) < 7

    killed = start(small_data, out, environment)
    stop_after_runs(killed, out, len(before) + 1, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE_SECONDS)
    # A process left behind could write into the directory of the next benchmark.
    wait_until(
        lambda: not processes_of(environment["LETHE_HOME"]), "a process outlived the command"
    )
    after = runs_in(out)
    assert after.items() > before.items()
    assert not (out / "results.json").exists()

    whole = start(small_data, out, environment)
    stdout, stderr = whole.communicate(timeout=600)
    assert whole.returncode == 0, stderr
    # Runs contain their seconds, so an equal file is the same run and not a repetition.
    assert after.items() <= runs_in(out).items()
    assert all(f" {name.replace('-0', ', seed 0')}, " not in stderr for name in after)
    assert "12 of 12: e2urec-fast, seed 0" in stderr
    results = json.loads(stdout)
    assert json.loads((out / "results.json").read_text()) == results
    check_runs(results)
    check_report(results, small_data, out)
    check_teachers(results, small_data, out)


def check_runs(results: dict[str, Any]) -> None:
    """Check that every run has all measured fields."""
    assert results["shadows"] == 1
    assert len(results["runs"]) == 6
    for run in results["runs"]:
        assert run["peak_bytes"] > run["peak_added_bytes"] >= 0
        assert run["peak_bytes"] > 100 * 2**20  # torch alone needs more.
        assert run["data_sha256"] == results["plan"]["data_sha256"]
        assert run["versions"]["torch"]
        assert run["config"]["recipe"]["seed"] == run["seed"]
        assert run["audit_seconds"] > 0
        expected = {"retrain": {"exact"}, "original": {None}, "e2urec-fast": VERDICTS}
        assert run["audit"]["outcome"] in expected[run["method"]]
    ours = results["runs"][-1]
    assert ours["config"]["method"]["learning_rate"] > 0
    assert 0 < ours["trainable_parameters"] < ours["parameters"]


def check_report(results: dict[str, Any], data: Path, out: Path) -> None:
    """Check the goals in both tables, and that a second start makes no unit again."""
    table = (out / "table.md").read_text()
    assert len(results["goals"]) == 4
    assert all(f"- e2urec-fast, {goal['goal']}: " in table for goal in results["goals"])
    # One seed has no systematic distance, so that the plots of distances are missing.
    names = {plot.stem for plot in out.glob("*.png")}
    assert names == {"pareto", "times", "membership", "users", "exposure"}
    # The attack on seed 0 needs an Original run of another seed, which Retrain's other seeds have.
    assert results["measures"]["original"]["attack"] is None
    attack = results["measures"]["retrain"]["attack"]
    assert attack["auc"] == pytest.approx(0.5)
    assert attack["control_auc"] == pytest.approx(0.5)
    assert results["control"]["has_power"] is None
    again = benchmark(data, out)
    assert "e2urec-fast, as good as retraining: " in again.stdout
    assert " of 11: " not in again.stdout


def check_teachers(results: dict[str, Any], data: Path, out: Path) -> None:
    """Check that the teachers reuse the runs of Retrain and Original and train no student."""
    before = runs_in(out)
    ended = benchmark(data, out, "--teacher-only", "--json")
    assert ended.exit_code == 0, ended.stderr
    teachers = json.loads(ended.stdout)
    assert teachers == json.loads((out / "teachers.json").read_text())
    assert runs_in(out) == before
    assert teachers["noise_floor"] == results["noise_floor"]
    assert [key for key in teachers["summary"] if not key.startswith("e2urec-fast: ")] == [
        "retrain",
        "original",
    ]
    assert len(teachers["summary"]) > 2
    for measure in ("jsd", "forget_loss", "forget_auc"):
        original = results["summary"]["original"][measure]["mean"]
        assert teachers["summary"]["original"][measure]["mean"] == original
        assert all(
            statistics[measure]["mean"] is not None for statistics in teachers["summary"].values()
        )


def test_serving_benchmark_measures_http_during_deletions(
    tiny: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["benchmark", "serving", "--data", str(tiny), "--home", environment["LETHE_HOME"]]
    command += ["--clients", "1,2", "--seconds", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", *command, "--out", str(out), "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads((out / "results.json").read_text())
    assert json.loads(ended.stdout) == results
    rows = {(row["name"], row["clients"]): row for row in results["scenarios"]}
    assert {("closed loop", 1), ("closed loop", 2), ("open loop, steady", 64)} <= rows.keys()
    assert all(row["failed"] == row["refused"] == 0 for row in rows.values())
    assert all(row["requests"] > 0 for (name, _), row in rows.items() if "of those" not in name)
    assert [swap["seconds_to_completed"] > 0 for swap in results["swaps"]] == [True] * 3
    assert results["ratios"]["naive"] > 1
    assert {"README.md", "growth.png", "profile.txt"} <= {path.name for path in out.iterdir()}
    wait_until(lambda: processes_of(environment["LETHE_HOME"]) == [], "a process is left")
