"""The goals of e2urec-fast at their exact limits, and their lines in the report."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.unlearning.goals import goals
from benchmarks.unlearning.report import goal_lines, markdown_table


def results(protocol: str = "paper", **ours: float) -> dict[str, Any]:
    own = {"test_auc": 0.748, "jsd": 0.002, "forget_loss": 0.58, "seconds": 2.0}
    own |= {"trainable_parameters": 400_000, "parameters": 20_000_000, **ours}
    runs = [
        {"method": "retrain", "seed": 0, "test_auc": 0.75, "seconds": 100.0},
        {"method": "original", "seed": 0, "test_auc": 0.76, "seconds": 0.0},
        {"method": "e2urec-fast", "seed": 0, **own},
    ]
    floor = {"jsd": 0.0015, "jsd_interval": [0.001, 0.002], "forget_loss_interval": [0.57, 0.59]}
    return {"protocol": protocol, "runs": runs, "noise_floor": floor}


def met(results: dict[str, Any]) -> list[bool | None]:
    return [goal["met"] for goal in goals(results)]


def test_all_goals_are_met_at_their_limits() -> None:
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
def test_value_beyond_a_limit_misses_only_that_goal(
    protocol: str, ours: dict[str, float], expected: list[bool | None]
) -> None:
    assert met(results(protocol, **ours)) == expected


def test_utility_goal_uses_the_worse_of_original_and_retrain() -> None:
    figures = results(test_auc=0.7381)
    figures["runs"][1]["test_auc"] = 0.74
    assert met(figures)[1] is True


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_without_a_needed_run_there_are_no_goals(missing: int) -> None:
    figures = results()
    del figures["runs"][missing]
    assert goals(figures) == []


def test_goal_without_a_measurement_is_undecided() -> None:
    figures = results()
    figures["runs"][2]["jsd"] = None
    assert met(figures) == [None, True, True, True]


def test_goal_lines_are_below_the_table() -> None:
    figures = results(seconds=20.0)
    figures["goals"] = goals(figures)
    lines = goal_lines(figures)
    assert lines[0].startswith("e2urec-fast, as good as retraining: met (JSD × 1000 2.00, at most")
    assert "not met (20.0 s ÷ 100.0 s = 0.200, at most 0.1)" in lines[2]
    assert all(f"- {line}\n" in markdown_table(figures) for line in lines)
