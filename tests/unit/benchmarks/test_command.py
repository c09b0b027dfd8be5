"""`lethe benchmark unlearning` from outside: bad input, a whole benchmark, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli.root import application
from benchmarks.unlearning.command import (
    Benchmark,
    BenchmarkFailedError,
    Options,
    finite,
    parse_methods,
)
from models.training import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

ROOT = Path(__file__).parents[3]
METHODS = "original,e2urec-fast"


def write_movielens(folder: Path, *, users: int = 20, each: int = 20, items: int = 30) -> Path:
    generator = np.random.default_rng(1)
    folder.mkdir()
    films = [f"{n + 1},Film {n} (1999),{('Drama', 'Comedy')[n % 2]}" for n in range(items)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]) + "\n")
    ratings = [
        f"{user + 1},{item + 1},{generator.choice([1, 2, 4, 5])}.0,{generator.integers(10**9)}"
        for user in range(users)
        for item in generator.choice(items, each, replace=False)
    ]
    (folder / "ratings.csv").write_text(
        "\n".join(["userId,movieId,rating,timestamp", *ratings]) + "\n"
    )
    return folder


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
        (["--protocol", "papier"], "There is no protocol 'papier'. Known: one-percent, paper"),
        (["--backbone", "gpt"], "There is no backbone 'gpt'. Known: compact"),
        (["--seeds", "0"], "--seeds must be 1 to 100, not 0."),
        (["--seeds", "101"], "--seeds must be 1 to 100, not 101."),
        (["--forget-seed", "-1"], "--forget-seed must be 0 or more, not -1."),
        (["--shadows", "-1"], "--shadows must be 0 or more, not -1."),
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


def test_a_loss_that_is_no_number_says_what_to_do(data: Path, tmp_path: Path) -> None:
    options = Options(data=data, out=tmp_path / "out", methods=("original",), seeds=1)
    runs: list[dict[str, Any]] = []
    wild = TrainConfig(learning_rate=1e30, warmup_steps=1, batch_size=16, epochs=3, validations=0)
    with pytest.raises(BenchmarkFailedError, match=r"Lower the learning rate.*Finished runs are"):
        Benchmark.prepare(options, wild).run(runs.append)
    assert runs == []


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *arguments(data, out, *more)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_in(out: Path) -> dict[str, str]:
    return {place.stem: place.read_text() for place in (out / "runs").glob("*.json")}


def stop_after_a_run(process: subprocess.Popen[str], out: Path, number: int, how: int) -> None:
    deadline = time.monotonic() + 120
    while len(runs_in(out)) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_stopped_benchmark_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    out, two = tmp_path / "out", ("--seeds", "2")
    stopped = start(data, out, *two, "--json")
    stop_after_a_run(stopped, out, 1, signal.SIGINT)
    stdout, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "The same command goes on" in json.loads(stdout)["error"]["message"]
    before = runs_in(out)
    assert 1 <= len(before) < 8

    killed = start(data, out, *two)
    stop_after_a_run(killed, out, len(before) + 1, signal.SIGKILL)
    killed.communicate(timeout=60)
    after = runs_in(out)
    assert after.items() > before.items()
    assert not (out / "results.json").exists()

    whole = benchmark(data, out, *two, "--json")
    assert whole.exit_code == 0
    # The runs say how many seconds they took: the same to the last digit is the same run.
    assert after.items() <= runs_in(out).items()
    assert len(json.loads(whole.stdout)["runs"]) == 8
    assert all(f"{name.rpartition('-')[0]} seed {name[-1]}" not in whole.stderr for name in after)
    assert "8 of 8 runs" in whole.stderr


def test_a_whole_benchmark_and_then_a_look_at_its_teachers(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = start(data, out, "--json")
    stdout, stderr = whole.communicate(timeout=120)
    assert whole.returncode == 0, stderr
    assert "6 of 6 runs: e2urec-fast seed 0" in stderr
    results: dict[str, Any] = json.loads(stdout)
    assert json.loads((out / "results.json").read_text()) == results
    goals = [goal["goal"] for goal in results["goals"]]
    assert len(goals) == 3
    table = (out / "table.md").read_text()
    assert all(f"- e2urec-fast, {goal}: " in table for goal in goals)
    assert list(out.glob("*.png"))

    # In the same folder: Retrain and Original are there already, and so is the table.
    before = runs_in(out)
    again = benchmark(data, out)
    assert "e2urec-fast, as good as retraining: " in again.stdout
    assert "6 of 6 runs: " not in again.stdout
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
