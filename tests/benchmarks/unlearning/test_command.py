"""`lethe benchmark unlearning`: invalid options and data, and the lock of the directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import application
from benchmarks.unlearning.benchmark import Benchmark, Options, parse_methods, parse_seeds
from benchmarks.unlearning.errors import BenchmarkFailedError
from models.training.trainer import TrainConfig

if TYPE_CHECKING:
    from click.testing import Result

ROOT = Path(__file__).parents[3]
METHODS = "original,e2urec-fast"


def write_movielens(folder: Path, *, users: int = 20, each: int = 20, items: int = 30) -> Path:
    """Write users who rate one after another, so that some rate only after the training period."""
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
    """Progress display that records its lines."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        pass

    def tell(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_movielens(tmp_path / "data")


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    base = ["unlearning", "--data", str(data), "--out", str(out)]
    small = ["--seeds", "1", "--retrain-runs", "4", "--shadows", "0"]
    return [*base, "--methods", METHODS, *small, *more]


def benchmark(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(application, arguments(data, out, *more), catch_exceptions=False)


def refusal(data: Path, out: Path, *more: str) -> str:
    """Return the error message of a refused command, which must leave no runs."""
    result = benchmark(data, out, *more, "--json")
    assert result.exit_code == 2
    message: str = json.loads(result.stdout)["error"]["message"]
    assert message[0].isupper() or message.startswith(("-", "/"))
    assert message.endswith(".")
    assert "Traceback" not in result.output
    assert not (out / "runs").exists() or out.name == "other"
    return message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "unlearn"], "Unknown method 'unlearn'; known methods: "),
        (["--methods", "original:x"], "--methods original:x has no number of seeds."),
        (["--methods", "original:0"], "The seeds of original must be 1 to 100, not 0."),
        (["--methods", " , "], "Name a method: --methods "),
        (["--protocol", "papier"], "There is no protocol 'papier'. Known: interactions, items"),
        (["--backbone", "gpt"], "There is no backbone 'gpt'. Known: compact, compact-t5, smollm2"),
        (["--backbone", "hf:/no/such"], "/no/such holds no language model"),
        (["--backbone", "hf:"], "There is no backbone 'hf:'"),
        (["--seeds", "0"], "--seeds must be 1 to 100, not 0."),
        (["--seeds", "101"], "--seeds must be 1 to 100, not 101."),
        (["--forget-seed", "-1"], "--forget-seed must be 0 or more, not -1."),
        (["--retrain-runs", "3"], "--retrain-runs must be 4 to 100, not 3."),
        (["--shadows", "-1"], "--shadows must be 0 to 1000, not -1."),
        (["--protocol", "sequential", "--teacher-only"], "Evaluate those of --protocol paper"),
        (
            ["--teacher-only", "--methods", "neggrad"],
            "Choose from: e2urec, e2urec-fast, e2urec-long.",
        ),
    ],
)
def test_invalid_options_are_refused(
    data: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    assert message in refusal(data, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_missing_data_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere", tmp_path / "out")
    assert message.endswith("nowhere does not exist. Check the path.")


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "ratings.bin"
    garbage.write_bytes(bytes(range(256)) * 8)
    assert "holds no format that is known" in refusal(garbage, tmp_path / "out")


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    small = write_movielens(tmp_path / "small", users=2, each=8)
    assert "too few samples" in refusal(small, tmp_path / "out")


def test_protocol_that_leaves_no_training_rows_is_refused(tmp_path: Path) -> None:
    single = write_movielens(tmp_path / "single", users=1, each=200, items=300)
    assert "training rows" in refusal(single, tmp_path / "out", "--protocol", "single-user")


def test_data_set_without_dislikes_is_refused(data: Path, tmp_path: Path) -> None:
    ratings = data / "ratings.csv"
    rows = [line.split(",") for line in ratings.read_text().splitlines()]
    likes = [f"{user},{item},5.0,{when}" for user, item, _, when in rows[1:]]
    ratings.write_text("\n".join([",".join(rows[0]), *likes]) + "\n")
    assert "ratings of both kinds" in refusal(data, tmp_path / "out")


def test_file_as_output_directory_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("content")
    assert "is a file. Choose a directory for --out." in refusal(data, path)
    assert path.read_text() == "content"


def test_directory_of_another_benchmark_stays_unchanged(data: Path, tmp_path: Path) -> None:
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


def test_diverging_retrain_fails_with_advice(data: Path, tmp_path: Path) -> None:
    options = Options(data=data, out=tmp_path / "out", methods=("original",), seeds=1)
    diverging = TrainConfig(
        learning_rate=1e30, warmup_steps=1, batch_size=16, epochs=3, validations=0
    )
    lines = Lines()
    with (
        pytest.raises(
            BenchmarkFailedError, match=r"Lower the learning rate.*Finished runs are kept"
        ),
        Benchmark.claim(options, diverging) as diverging_benchmark,
    ):
        diverging_benchmark.run(lines)
    assert lines == []


def test_directory_of_a_running_benchmark_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Benchmark.claim(Options(data=data, out=out)):
        assert "Another benchmark runs in" in refusal(data, out)


def test_directory_without_runs_accepts_another_plan(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for seed in (0, 1):
        with Benchmark.claim(Options(data=data, out=out, forget_seed=seed)) as claimed:
            assert json.loads((out / "plan.json").read_text()) == claimed.plan


def test_results_without_runs_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("{}")
    assert "holds runs of another benchmark" in refusal(data, out)
    assert (out / "results.json").read_text() == "{}"


def test_parsed_methods_have_no_duplicates_and_no_blanks() -> None:
    assert parse_methods(" a, b : 8,,a ") == ("a", "b")
    assert parse_seeds(" a, b : 8,,a ") == {"b": 8}
