"""Test the measurement of the audit's power: sizes, candidates, and the lines of the report."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.audit_power import power
from benchmarks.audit_power.candidates import ENTRIES, Entry
from benchmarks.audit_power.world import MEMORIZATION, World, WorldConfig, shadow_world
from benchmarks.cli import application

if TYPE_CHECKING:
    from benchmarks.audit_power.power import Counts

CONFIG = WorldConfig(memorization=MEMORIZATION["weak"])


def counts(name: str, people: int, rows: int, **outcomes: int) -> Counts:
    (entry,) = [entry for entry in ENTRIES if entry.name == name]
    return power.Counts(entry=entry, people=people, rows=rows, batches=Counter(outcomes))


def test_a_retraining_lacks_the_memorization_of_left_out_rows_only() -> None:
    world, model = shadow_world(CONFIG, np.random.default_rng(0))
    signs = world.forget.signs
    change = signs * (model.forget.answers - world.old.forget.answers)
    bias = (model.controls.answers - world.old.controls.answers).mean()
    assert (change - signs * bias).mean() == pytest.approx(-CONFIG.memorization, abs=0.015)
    kept = world.controls.signs * (model.controls.answers - world.old.controls.answers - bias)
    assert kept.mean() == pytest.approx(0, abs=0.015)


def test_fakes_with_the_right_mean_have_it() -> None:
    world = World.draw(np.full(32, 150), CONFIG, np.random.default_rng(1))
    names = {"half of the rows, twice as far", "the right mean, evenly", "clamped confidence"}
    names |= {"only the most confident third", "only the liked rows", "temperature of these people"}
    needed = world.forget.memorization.mean()
    for entry in (entry for entry in ENTRIES if entry.name in names):
        candidate = entry.make(world, np.random.default_rng(2))
        change = world.forget.signs * (candidate.forget.answers - world.old.forget.answers)
        assert change.mean() == pytest.approx(-needed, rel=0.1), entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_untouched_people_are_untouched(entry: Entry) -> None:
    if not entry.untouched or "seed" in entry.name or "blurred" in entry.name:
        return  # No person is untouched, or another seed or a blur changes all answers.
    rng = np.random.default_rng(3)
    world = World.draw(np.array(entry.rows), CONFIG, rng)
    candidate = entry.make(world, rng)
    kept = world.forget.users >= len(entry.rows or ()) - entry.untouched
    np.testing.assert_array_equal(candidate.forget.answers[kept], world.old.forget.answers[kept])
    assert (candidate.forget.answers[~kept] != world.old.forget.answers[~kept]).any()


def test_missed_lines_are_named() -> None:
    missed = power.missed_lines(
        [
            counts("a third of the change", 1, 150, passed=6, failed=94),
            counts("nothing", 1, 150, passed=5, failed=95),
            counts("retrained with another seed", 32, 50, passed=79, inconclusive=21),
            counts("retrained with another seed", 32, 10, passed=50, failed=6, inconclusive=44),
            counts("retrained with another seed", 1, 50, passed=0, inconclusive=100),
        ]
    )
    assert [line.split(",")[0] for line in missed] == [
        "a third of the change",
        "retrained with another seed",
        "retrained with another seed",
    ]
    assert missed[1].endswith("passed in 79% only")
    assert missed[2].endswith("failed in 6%")


def test_the_command_prints_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "PEOPLE", (32,))
    monkeypatch.setattr(power, "ROWS", (10,))
    result = CliRunner().invoke(application, ["audit-power", "--draws", "1", "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.output)
    for strength in MEMORIZATION:
        listed = values[strength]["candidates"]
        assert [row["candidate"] for row in listed] == [entry.name for entry in ENTRIES]
        assert all(sum(row["batch"].values()) == pytest.approx(1) for row in listed)
        assert all(sum(row["earlier_gate"].values()) == pytest.approx(1) for row in listed)
