"""`python -m benchmarks.tuning`: ten recorded trials per method, resumed, and bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.tuning.__main__ import main
from benchmarks.tuning.parts import parts_of
from benchmarks.tuning.report import trial_table
from benchmarks.tuning.search import Search, TuningOptions
from benchmarks.tuning.trials import BUDGET, TUNED, trials_of
from benchmarks.unlearning.setting import read_json
from models.backbones.compact import CompactConfig
from models.training.trainer import TrainConfig
from models.unlearning.e2urec import E2URec
from models.unlearning.registry import METHODS
from tests.benchmarks.unlearning.test_command import Lines, write_movielens

if TYPE_CHECKING:
    from pathlib import Path

SMALL = TrainConfig(
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    learning_rate=1e-2,
    epochs=1,
    validations=0,
)


@pytest.mark.parametrize("name", TUNED)
def test_every_method_has_the_same_budget_of_different_trials(name: str) -> None:
    trials = trials_of(name)
    assert name in METHODS
    assert [trial.number for trial in trials] == list(range(1, BUDGET + 1))
    assert {trial.method.name for trial in trials} == {name}
    configs = {repr(trial.method) for trial in trials}
    assert len(configs) == BUDGET


def test_parts_are_points_of_one_trajectory_and_trials_without_a_part() -> None:
    assert E2URec() in [trial.method for trial in parts_of("e2urec")]


@pytest.mark.parametrize("name", ["e2urec", "e2urec-fast"])
def test_parts_do_not_replace_the_trials_of_settings(name: str) -> None:
    trials = parts_of(name)
    assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
    assert len({repr(trial.method) for trial in trials}) == len(trials)
    settings = {f"{name}-{number}" for number in range(BUDGET + 1)}
    assert not {trial.name for trial in trials} & settings


@pytest.mark.slow
def test_a_search_records_and_resumes_its_trials(tmp_path: Path) -> None:
    options = TuningOptions(
        data=write_movielens(tmp_path / "data"),
        out=tmp_path / "out",
        methods=("scrub",),
        search_seeds=1,
        retrain_runs=4,
    )
    lines = Lines()
    with Search.claim(options, SMALL) as search:
        (result,) = search.run(lines)
    records = result["trials"]
    assert [record["trial"] for record in records] == list(range(1, BUDGET + 1))
    finalists = [record for record in records if record["seeds"] == 2]
    assert len(finalists) == options.finalists
    assert all(record["systematic"] is not None for record in finalists)
    best = min(finalists, key=lambda record: record["distance"])
    assert result["best"] == best["trial"]
    others = [record["distance"] for record in records if record["seeds"] == 1]
    assert max(record["search_distance"] for record in finalists) <= min(others)
    assert read_json(options.out / "scrub.json") == result
    assert f"**{best['trial']}**" in trial_table([result])
    # The same command loads every trial; a trial that is missing is made again.
    removed = options.out / "trials" / "scrub-4-0.json"
    removed.unlink()
    with Search.claim(replace(options, only_finished=True), SMALL) as search:
        (partial,) = search.run(Lines())
    assert partial["not_run"] == [4]
    assert [record["trial"] for record in partial["trials"]] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert not removed.exists()
    assert "| `scrub` | 4 | not run |" in trial_table([partial])
    again = Lines()
    with Search.claim(options, SMALL) as search:
        (repeated,) = search.run(again)
    assert again == ["scrub-4, seed 0"]
    untimed = [
        [{**record, "seconds": None} for record in whole["trials"]] for whole in (result, repeated)
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "retrain"], "retrain has no trials"),
        (["--method", ""], "Name a method"),
        (["--method", "npo", "--parts"], "--parts has no trials of npo"),
        (["--forget-seed", "0"], "must not choose settings"),
        (["--seeds", "0"], "--seeds must be 1 to 4"),
        (["--seeds", "1", "--search-seeds", "2"], "--search-seeds at most --seeds"),
        (["--finalists", "0"], "--finalists must be 1 or more"),
        (["--protocol", "sequential"], "Use --protocol paper"),
        (["--protocol", "single-user"], "Use --protocol paper"),
        (["--protocol", "none"], "There is no protocol 'none'"),
        (["--retrain-runs", "2"], "--retrain-runs must be"),
    ],
)
def test_bad_input_is_explained_and_ends_with_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_movielens(tmp_path / "data"), tmp_path / "out"
    assert main(["--data", str(data), "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "trials").exists()


def test_missing_data_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
