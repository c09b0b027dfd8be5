"""`lethe benchmark unlearning` from outside: bad input, a whole benchmark, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.unlearning.command import Benchmark, Options, parse_methods
from benchmarks.unlearning.numbers import finite
from typer.testing import CliRunner

from app.cli.root import application
from benchmarks.unlearning.errors import BenchmarkFailedError
from models.training.trainer import TrainConfig

if TYPE_CHECKING:
    from click.testing import Result

ROOT = Path(__file__).parents[3]
METHODS = "original,e2urec-fast"


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
        (["--methods", "unlearn"], "Unknown method 'unlearn'; known methods: "),
        (["--methods", " , "], "Name a method: --methods "),
        (["--protocol", "papier"], "There is no protocol 'papier'. Known: interactions, items"),
        (["--backbone", "gpt"], "There is no backbone 'gpt'. Known: compact, compact-t5, smollm2"),
        (["--backbone", "hf:/no/such"], "/no/such holds no language model"),
        (["--backbone", "hf:"], "There is no backbone 'hf:'"),
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
    assert not (tmp_path / "out").exists()


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


def test_a_folder_where_nothing_was_made_yet_takes_another_plan(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for seed in (0, 1):
        with Benchmark.claim(Options(data=data, out=out, forget_seed=seed)) as made:
            assert json.loads((out / "plan.json").read_text()) == made.plan


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
