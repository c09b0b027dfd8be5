"""Test the measurement on trained models, with a small data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.audit_power import fakes, real
from benchmarks.audit_power.candidates import REAL_ENTRIES
from benchmarks.cli import application
from benchmarks.planted_memorization import planted_memorization, write

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.audit_power.power import Counts


@dataclass(frozen=True, kw_only=True)
class Run:
    """The results and progress of one run of the command, and the models' margins."""

    results: dict[str, Any]
    progress: str
    measured: real.Measured


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("planted")
    write(planted_memorization(60, seed=0), directory)
    kept: list[real.Measured] = []
    count = real.count

    def count_and_keep(measured: real.Measured, seed: int) -> list[Counts]:
        kept.append(measured)
        return count(measured, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "MANY_ROWS", 30)
        patch.setattr(real, "OTHER_SEEDS", 1)
        patch.setattr(real, "count", count_and_keep)
        arguments = ["audit-power", "--data", str(directory), "--retrainings", "2"]
        arguments += ["--out", str(directory / "out"), "--json"]
        result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    text = (directory / "out" / "results.json").read_text(encoding="utf-8")
    return Run(results=json.loads(text), progress=result.stderr, measured=kept[0])


def test_the_command_judges_retrainings_and_fakes_of_trained_models(run: Run) -> None:
    listed = run.results["candidates"]
    assert [row["candidate"] for row in listed] == 2 * [entry.name for entry in REAL_ENTRIES]
    assert {row["rows"] for row in listed} == {30, 10}
    assert all(row["draws"] == 2 for row in listed)
    untouched = next(row for row in listed if row["candidate"] == "nothing")
    assert untouched["batch"] == {"failed": 1.0}
    assert "training 5 of 5" in run.progress


def test_the_worlds_have_the_answers_of_trained_models(run: Run) -> None:
    many, few = run.measured.worlds[30], run.measured.worlds[10]
    most_of_few, least_of_many = (
        np.bincount(few[0].forget.users).max(),
        np.bincount(many[0].forget.users).min(),
    )
    assert most_of_few < 30 <= least_of_many
    rng = np.random.default_rng(0)
    first, second = (world.model(rng, knows_forget=False) for world in many)
    known = many[0].model(rng, knows_forget=True)
    for other in (second, known, many[0].old):
        assert not np.array_equal(first.forget.answers, other.forget.answers)
    assert not np.array_equal(first.forget.neighbors, first.forget.answers)


def test_a_fake_along_a_retraining_moves_every_second_row_twice_as_far(run: Run) -> None:
    world = run.measured.worlds[30][0]
    old, new = world.old.forget, world.retraining.forget
    moved = fakes.along_half(world, np.random.default_rng(0))
    factors = (moved.forget.answers - old.answers) / (new.answers - old.answers)
    assert set(np.round(factors, 3)) == {0.0, 2.0}
    np.testing.assert_array_equal(moved.controls.answers, world.retraining.controls.answers)


def test_a_data_set_with_few_people_is_named(tmp_path: Path) -> None:
    write(planted_memorization(40, seed=0), tmp_path)
    result = CliRunner().invoke(application, ["audit-power", "--data", str(tmp_path)])
    assert result.exit_code != 0
    assert "too few people" in result.output
