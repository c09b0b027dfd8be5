"""`lethe benchmark unlearning` from outside: bad input, a whole benchmark, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli.root import application
from benchmarks.unlearning.command import Benchmark, Options, parse_methods
from benchmarks.unlearning.errors import BenchmarkFailedError
from benchmarks.unlearning.numbers import finite
from models.training import TrainConfig
from tests.e2e.support import processes_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

ROOT = Path(__file__).parents[3]
METHODS = "original,e2urec-fast"
VERDICTS = {"passed", "failed", "inconclusive"}


def write_movielens(folder: Path, *, users: int = 20, each: int = 20, items: int = 30) -> Path:
    """Write people who come one after the other, so that some come after the training period."""
    generator = np.random.default_rng(1)
    folder.mkdir()
    films = [f"{n + 1},Film {n} (1999),{('Drama', 'Comedy')[n % 2]}" for n in range(items)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]) + "\n")
    ratings = [
        f"{user + 1},{item + 1},{generator.choice([1, 2, 4, 5])}.0,"
        f"{user * 10**6 + generator.integers(10**5)}"
        for user in range(users)
        for item in generator.choice(items, each, replace=False)
    ]
    (folder / "ratings.csv").write_text(
        "\n".join(["userId,movieId,rating,timestamp", *ratings]) + "\n"
    )
    return folder


class Lines(list[str]):
    """A screen that only remembers its lines."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        pass

    def tell(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_movielens(tmp_path / "data")


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    base = ["benchmark", "unlearning", "--data", str(data), "--out", str(out)]
    return [*base, "--methods", METHODS, "--seeds", "1", *more]


def benchmark(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(application, arguments(data, out, *more), catch_exceptions=False)


def refusal(data: Path, out: Path, *more: str) -> str:
    """Return the one message that a refused command prints; nothing may have been made."""
    found = benchmark(data, out, *more, "--json")
    assert found.exit_code == 2
    message: str = json.loads(found.stdout)["error"]["message"]
    assert message[0].isupper() or message.startswith(("-", "/"))
    assert message.endswith(".")
    assert "Traceback" not in found.output
    assert not (out / "runs").exists() or out.name == "other"
    return message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "unlearn"], "No method 'unlearn'; there are: badt, "),
        (["--methods", " , "], "Name a method: --methods badt,"),
        (["--protocol", "papier"], "There is no protocol 'papier'. Known: interactions, items"),
        (["--backbone", "gpt"], "There is no backbone 'gpt'. Known: compact"),
        (["--seeds", "0"], "--seeds must be 1 to 100, not 0."),
        (["--seeds", "101"], "--seeds must be 1 to 100, not 101."),
        (["--forget-seed", "-1"], "--forget-seed must be 0 or more, not -1."),
        (["--shadows", "-1"], "--shadows must be 0 to 1000, not -1."),
        (["--protocol", "sequential", "--teacher-only"], "Look at those of --protocol paper"),
        (["--teacher-only", "--methods", "neggrad"], "Choose of: e2urec, e2urec-fast."),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    data: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    assert message in refusal(data, tmp_path / "out", *more)


def test_missing_data_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere", tmp_path / "out")
    assert message.endswith("nowhere does not exist. Check the path.")


def test_garbage_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "ratings.bin"
    garbage.write_bytes(bytes(range(256)) * 8)
    assert "holds no format that is known" in refusal(garbage, tmp_path / "out")


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    few = write_movielens(tmp_path / "few", users=2, each=8)
    assert "too few samples" in refusal(few, tmp_path / "out")


def test_to_forget_everybody_is_refused(tmp_path: Path) -> None:
    alone = write_movielens(tmp_path / "alone", users=1, each=200, items=300)
    assert "would forget everybody" in refusal(alone, tmp_path / "out", "--protocol", "single-user")


def test_a_data_set_without_dislikes_is_refused(data: Path, tmp_path: Path) -> None:
    ratings = data / "ratings.csv"
    rows = [line.split(",") for line in ratings.read_text().splitlines()]
    happy = [f"{user},{item},5.0,{when}" for user, item, _, when in rows[1:]]
    ratings.write_text("\n".join([",".join(rows[0]), *happy]) + "\n")
    assert "ratings of both kinds" in refusal(data, tmp_path / "out")


def test_a_file_is_no_place_for_results(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.write_text("mine")
    assert "is a file. Choose a directory for --out." in refusal(data, place)
    assert place.read_text() == "mine"


def test_the_folder_of_another_benchmark_is_left_alone(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "runs").mkdir(parents=True)
    message = "holds runs of another benchmark"
    assert message in refusal(data, other)
    (other / "plan.json").write_text('{"protocol": "single-user"}')
    assert message in refusal(data, other)
    (other / "plan.json").write_text("[]")
    assert message in refusal(data, other)
    (other / "plan.json").write_text("no JSON")
    assert message in refusal(data, other)
    assert (other / "plan.json").read_text() == "no JSON"


def test_retrain_whose_loss_is_no_number_says_what_to_do(data: Path, tmp_path: Path) -> None:
    options = Options(data=data, out=tmp_path / "out", methods=("original",), seeds=1)
    wild = TrainConfig(learning_rate=1e30, warmup_steps=1, batch_size=16, epochs=3, validations=0)
    lines = Lines()
    with (
        pytest.raises(BenchmarkFailedError, match=r"Lower the learning rate.*what is finished is"),
        Benchmark.claim(options, wild) as made,
    ):
        made.run(lines)
    assert lines == []


def test_a_folder_is_for_one_benchmark_at_a_time(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Benchmark.claim(Options(data=data, out=out)):
        assert "Another benchmark is at work in" in refusal(data, out)


def test_results_without_their_runs_are_not_written_over(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("{}")
    assert "holds runs of another benchmark" in refusal(data, out)
    assert (out / "results.json").read_text() == "{}"


def test_no_number_becomes_null() -> None:
    assert finite({"a": [float("nan"), 1.0], "b": float("inf"), "c": "nan"}) == {
        "a": [None, 1.0],
        "b": None,
        "c": "nan",
    }


def test_methods_count_once_and_blanks_do_not() -> None:
    assert parse_methods(" a, b,,a ") == ("a", "b")


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Undo an ignored SIGINT, which a shell hands down to whatever it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command; its processes can be told by their LETHE_HOME."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *arguments(data, out, *more)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LETHE_HOME": str(out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_in(out: Path) -> dict[str, str]:
    return {place.stem: place.read_text() for place in (out / "runs").glob("*.json")}


def stop_after_a_run(process: subprocess.Popen[str], out: Path, number: int, how: int) -> None:
    wait_until(
        lambda: len(runs_in(out)) >= number or process.poll() is not None, "no run was finished"
    )
    assert process.poll() is None, process.communicate()
    process.send_signal(how)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_stopped_benchmark_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped = start(data, out, "--shadows", "1", "--json")
    stop_after_a_run(stopped, out, 1, signal.SIGINT)
    stdout, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "the same command goes on" in json.loads(stdout)["error"]["message"]
    assert "Traceback" not in stderr
    before = runs_in(out)
    assert 1 <= len(before) < 7

    killed = start(data, out, "--shadows", "1")
    stop_after_a_run(killed, out, len(before) + 1, signal.SIGKILL)
    killed.communicate(timeout=60)
    # Nobody is left who could write into the folder while the next one does.
    wait_until(lambda: not processes_of(out), "a process outlived the command")
    after = runs_in(out)
    assert after.items() > before.items()
    assert not (out / "results.json").exists()

    whole = start(data, out, "--shadows", "1", "--json")
    stdout, stderr = whole.communicate(timeout=120)
    assert whole.returncode == 0, stderr
    # The runs say how many seconds they took: the same to the last digit is the same run.
    assert after.items() <= runs_in(out).items()
    assert all(f" {name.replace('-0', ', seed 0')}, " not in stderr for name in after)
    assert "12 of 12: e2urec-fast, seed 0" in stderr
    results = json.loads(stdout)
    assert json.loads((out / "results.json").read_text()) == results
    check_runs(results)
    check_report(results, data, out)
    check_teachers(results, data, out)


def check_runs(results: dict[str, Any]) -> None:
    """Every run has what the schema says, measured and not made up."""
    assert results["shadows"] == 1
    assert len(results["runs"]) == 6
    for run in results["runs"]:
        assert run["peak_bytes"] > run["peak_added_bytes"] >= 0
        assert run["peak_bytes"] > 100 * 2**20  # torch alone takes more.
        assert run["data_sha256"] == results["plan"]["data_sha256"]
        assert run["versions"]["torch"]
        assert run["config"]["recipe"]["seed"] == run["seed"]
        assert run["audit_seconds"] > 0
        expected = {"retrain": {"exact"}, "original": {None}, "e2urec-fast": VERDICTS}
        assert run["audit"]["outcome"] in expected[run["method"]]
    ours = results["runs"][-1]
    assert ours["config"]["method"]["rounds"] >= 1
    assert 0 < ours["trainable_parameters"] < ours["parameters"]


def check_report(results: dict[str, Any], data: Path, out: Path) -> None:
    """The goals stand under both tables; nothing is made twice."""
    table = (out / "table.md").read_text()
    assert len(results["goals"]) == 4
    assert all(f"- e2urec-fast, {goal['goal']}: " in table for goal in results["goals"])
    assert len(list(out.glob("*.png"))) == 4
    again = benchmark(data, out)
    assert "e2urec-fast, as good as retraining: " in again.stdout
    assert " of 11: " not in again.stdout


def check_teachers(results: dict[str, Any], data: Path, out: Path) -> None:
    """In the same folder Retrain and Original are there already; no student is trained."""
    before = runs_in(out)
    found = benchmark(data, out, "--teacher-only", "--json")
    assert found.exit_code == 0, found.stderr
    teachers = json.loads(found.stdout)
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
        assert all(found[measure]["mean"] is not None for found in teachers["summary"].values())
