"""`python -m benchmarks.tuning --confirm`: the best trials, on people who did not choose them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.tuning.__main__ import main
from benchmarks.tuning.search import REPORTED_SEED, Search, TuningOptions
from benchmarks.tuning.trials import trials_of
from benchmarks.unlearning.setting import read_json
from models.unlearning.registry import get_method
from tests.benchmarks.tuning.test_search import SMALL
from tests.benchmarks.unlearning.test_command import Lines, write_movielens

if TYPE_CHECKING:
    from pathlib import Path


def write_result(results: Path, name: str = "simnpo", **changes: Any) -> None:
    """Write what a search with another forget seed would write."""
    results.mkdir(exist_ok=True)
    content = {"best": 6, "plan": {"forget_seed": 1}} | changes
    (results / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_the_best_trial_is_measured_on_the_reported_people(tmp_path: Path) -> None:
    write_result(tmp_path / "results")
    options = TuningOptions(
        data=write_movielens(tmp_path / "data"),
        out=tmp_path / "out",
        methods=("simnpo",),
        forget_seed=REPORTED_SEED,
        seeds=1,
        search_seeds=1,
        retrain_runs=4,
        confirm=tmp_path / "results",
    )
    with Search.claim(options, SMALL) as search:
        (tuned,) = search.run(Lines())
    (record,) = tuned["trials"]
    assert record["settings"] == trials_of("simnpo")[5].settings
    assert (record["trial"], record["seeds"]) == (6, 1)
    assert read_json(options.out / "simnpo-confirmed.json") == tuned
    assert not (options.out / "simnpo.json").exists()


def test_a_method_without_a_search_has_its_defaults(tmp_path: Path) -> None:
    options = TuningOptions(data=tmp_path, out=tmp_path, confirm=tmp_path)
    (trial,) = options.trials_of("e2urec-fast")
    assert trial.method == get_method("e2urec-fast")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"plan": {"forget_seed": 0}}, [], "The people of --forget-seed 0 chose the settings"),
        ({"best": None}, [], "has no best trial"),
        ({"best": 11}, [], "has no best trial"),
        ({"plan": 1}, [], "is not the result of a search"),
        ({}, ["--parts"], "Give --confirm or --parts, not both"),
        ({}, ["--method", "nothing"], "nothing"),
    ],
)
def test_bad_results_are_explained(
    changes: dict[str, Any],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_result(tmp_path / "results", **changes)
    data, out = write_movielens(tmp_path / "data"), tmp_path / "out"
    given = ["--data", str(data), "--out", str(out), "--forget-seed", "0", "--method", "simnpo"]
    assert main([*given, "--confirm", str(tmp_path / "results"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "trials").exists()


def test_a_directory_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--forget-seed", "0"]
    assert main([*given, "--confirm", str(tmp_path / "none"), "--method", "simnpo"]) == 2
    assert "There is no directory" in capsys.readouterr().err
