"""The goals are judged by the numbers, at their exact edges, and printed where people look."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.unlearning.goals import goals
from benchmarks.unlearning.report import goal_lines, markdown_table


def results(protocol: str = "paper", **ours: float) -> dict[str, Any]:
    mine = {"test_auc": 0.748, "jsd": 0.002, "forget_loss": 0.58, "seconds": 2.0}
    mine |= {"trainable_parameters": 400_000, "parameters": 20_000_000, **ours}
    runs = [
        {"method": "retrain", "seed": 0, "test_auc": 0.75, "seconds": 100.0},
        {"method": "original", "seed": 0, "test_auc": 0.76, "seconds": 0.0},
        {"method": "e2urec-fast", "seed": 0, **mine},
    ]
    floor = {"jsd": 0.0015, "jsd_interval": [0.001, 0.002], "forget_loss_interval": [0.57, 0.59]}
    return {"protocol": protocol, "runs": runs, "noise_floor": floor}


def met(found: dict[str, Any]) -> list[bool | None]:
    return [goal["met"] for goal in goals(found)]


def test_all_are_met_at_their_edges() -> None:
    assert met(results()) == [True, True, True, True]
    assert met(results("single-user")) == [True, True, True, True]


@pytest.mark.parametrize(
    ("protocol", "ours", "expected"),
    [
        ("paper", {"jsd": 0.00201}, [False, True, True, True]),
        ("paper", {"jsd": 0.0001}, [True, True, True, True]),
        ("paper", {"forget_loss": 0.5699}, [False, True, True, True]),
        ("paper", {"forget_loss": 0.5901}, [False, True, True, True]),
        ("paper", {"test_auc": 0.7479}, [True, False, True, True]),
        ("paper", {"seconds": 10.1}, [True, True, False, True]),
        ("single-user", {"seconds": 2.1}, [True, True, False, True]),
        ("one-percent", {"seconds": 99.0}, [True, True, None, True]),
        ("paper", {"trainable_parameters": 400_001}, [True, True, True, False]),
        ("paper", {"parameters": 90_000}, [True, True, True, None]),
    ],
)
def test_each_is_missed_on_its_own(
    protocol: str, ours: dict[str, float], expected: list[bool | None]
) -> None:
    assert met(results(protocol, **ours)) == expected


def test_utility_is_held_against_the_worse_of_original_and_retrain() -> None:
    found = results(test_auc=0.7381)
    found["runs"][1]["test_auc"] = 0.74
    assert met(found)[1] is True


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_without_the_runs_there_are_no_goals(gone: int) -> None:
    found = results()
    del found["runs"][gone]
    assert goals(found) == []


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = results()
    found["runs"][2]["jsd"] = None
    assert met(found) == [None, True, True, True]


def test_goals_stand_under_the_table_with_their_numbers() -> None:
    found = results(seconds=20.0)
    found["goals"] = goals(found)
    lines = goal_lines(found)
    assert lines[0].startswith("e2urec-fast, as good as retraining: met (JSD × 1000 2.00, at most")
    assert "not met (20.0 s ÷ 100.0 s = 0.200, at most 0.1)" in lines[2]
    assert all(f"- {line}\n" in markdown_table(found) for line in lines)
