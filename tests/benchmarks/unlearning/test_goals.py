"""The goals of e2urec-fast at their exact limits, and their lines in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.unlearning.goals import Verdict, goals, verdict
from benchmarks.unlearning.report import goal_lines, markdown_table


def measures(**ours: Any) -> dict[str, Any]:
    own = {
        "systematic": {"distance": 0.001, "low": -0.002, "high": 0.004},
        "forget_loss_interval": [0.57, 0.59],
        "attack": {"auc": 0.52, "excess": 0.02},
        "test_logloss_difference": {"mean": 0.001, "low": 0.0, "high": 0.002},
        **ours,
    }
    original = {"systematic": {"distance": 0.04, "low": 0.03, "high": 0.05}}
    return {"retrain": {}, "original": original, "e2urec-fast": own}


def results(protocol: str = "paper", **ours: float) -> dict[str, Any]:
    own = {"test_auc": 0.748, "jsd": 0.002, "forget_loss": 0.58, "seconds": 2.0}
    own |= {"trainable_parameters": 400_000, "parameters": 20_000_000, **ours}
    runs = [
        {"method": "retrain", "seed": 0, "test_auc": 0.75, "seconds": 100.0},
        {"method": "original", "seed": 0, "test_auc": 0.76, "seconds": 0.0},
        {"method": "e2urec-fast", "seed": 0, **own},
    ]
    return {
        "protocol": protocol,
        "runs": runs,
        "measures": measures(),
        "control": {"has_power": True, "covers_zero": True, "original_rejected": True},
    }


def met(results: dict[str, Any]) -> list[bool | None]:
    return [goal["met"] for goal in goals(results)]


def test_all_goals_are_met_at_their_limits() -> None:
    assert met(results()) == [True, True, True, True]
    assert met(results("single-user")) == [True, True, True, True]


@pytest.mark.parametrize(
    ("protocol", "ours", "expected"),
    [
        ("paper", {"jsd": 0.1}, [True, True, True, True]),  # Single runs do not decide.
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
    figures["measures"]["e2urec-fast"]["attack"] = None
    assert met(figures) == [None, True, True, True]
    assert verdict(figures, "e2urec-fast").text() == "undecided: attack not measured"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"systematic": {"distance": 0.001, "low": -0.002, "high": 0.0041}},
            "not shown: distance -5% to 10% of Original's",
        ),
        (
            {"systematic": {"distance": 0.02, "low": 0.01, "high": 0.03}},
            "distance at least 25% of Original's",
        ),
        ({"attack": {"auc": 0.53, "excess": 0.021}}, "attack AUC 0.530"),
        (
            {"test_logloss_difference": {"mean": 0.0, "low": -0.01, "high": 0.0021}},
            "log loss up to +0.0021",
        ),
        ({"forget_loss_interval": [0.59, 0.60]}, "loss 0.5800 < 0.5900, not forgotten"),
        ({"forget_loss_interval": [0.5, 0.57]}, "loss 0.5800 > 0.5700, forgotten too much"),
    ],
)
def test_each_criterion_alone_prevents_the_verdict(changed: dict[str, Any], reason: str) -> None:
    figures = results()
    figures["measures"] = measures(**changed)
    assert verdict(figures, "e2urec-fast") == Verdict(good=False, reason=reason)


def test_distance_without_power_leaves_the_verdict_undecided() -> None:
    figures = results()
    figures["control"]["has_power"] = False
    found = verdict(figures, "e2urec-fast")
    assert found == Verdict(good=None, reason="the systematic distance has no power")
    # Another criterion that fails decides without the distance.
    figures["measures"]["e2urec-fast"]["attack"] = {"auc": 0.6, "excess": 0.1}
    assert verdict(figures, "e2urec-fast").good is False


def test_results_of_an_earlier_version_have_no_verdict() -> None:
    published = Path(__file__).parents[3] / "docs/results/paper/results.json"
    figures = json.loads(published.read_text())
    figures.pop("measures", None)
    figures.pop("control", None)
    assert verdict(figures, "e2urec-fast") == Verdict(good=None, reason="not measured")
    table = markdown_table(figures)
    assert "rankings and exposure: not measured (results of an earlier version)." in table


def test_goal_lines_are_below_the_table() -> None:
    figures = results(seconds=20.0)
    figures["goals"] = goals(figures)
    lines = goal_lines(figures)
    assert lines[0] == (
        "e2urec-fast, as good as retraining: met (upper end of the distance 10% of Original's, "
        "at most 10%; forget loss 0.5800, Retrain's 0.5700 to 0.5900; attack AUC 0.520, +0.020 "
        "from Retrain's, at most 0.02; upper end of the log loss difference +0.0020, at most 0.002)"
    )
    assert "not met (20.0 s ÷ 100.0 s = 0.200, at most 0.1)" in lines[2]
    assert all(f"- {line}\n" in markdown_table(figures) for line in lines)
