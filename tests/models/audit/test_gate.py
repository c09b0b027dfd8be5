"""Test the gate: no movement and overshoot fail, and too little evidence is inconclusive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from models.audit.gate import (
    FAILED,
    INCONCLUSIVE,
    PASSED,
    Decision,
    Difference,
    Expectation,
    GateConfig,
    contrast,
    decide,
    paired_difference,
)
from scipy import stats

#: An expected loss increase of 0.1 ± 0.01 nats over ten users.
EXPECTED = Expectation(mean=0.1, error=0.01, spread=0.05, units=10)
STILL = Difference(mean=0.0, low=-0.001, high=0.001, rows=500)


def change(mean: float, width: float) -> Difference:
    return Difference(mean=mean, low=mean - width, high=mean + width, rows=300)


def judge(
    movement: Difference,
    *,
    holdout: Difference = STILL,
    test: Difference = STILL,
    expected: Expectation = EXPECTED,
    unchanged: bool = False,
) -> Decision:
    return decide(movement, holdout, test, expected, GateConfig(), unchanged=unchanged)


def test_movement_as_expected_passes() -> None:
    decision = judge(change(0.1, 0.03))
    assert decision.outcome == PASSED
    assert "as on unseen rows" in decision.reason


def test_floor_and_ceiling_are_reported() -> None:
    decision = judge(change(0.1, 0.03))
    assert decision.floor == pytest.approx(0.025)
    assert decision.ceiling == pytest.approx(0.25)


@pytest.mark.parametrize("mean", [0.0, -0.05, 0.01])
def test_no_movement_fails(mean: float) -> None:
    decision = judge(change(mean, 0.01))
    assert decision.outcome == FAILED
    assert decision.reason.startswith("no movement")


def test_unchanged_answers_fail_with_any_movement() -> None:
    for movement in (change(0.0, 0.0), change(0.1, 0.03), change(0.0, math.inf)):
        decision = judge(movement, unchanged=True)
        assert decision.outcome == FAILED
        assert "nothing was unlearned" in decision.reason


def test_unchanged_answers_fail_without_an_expected_loss_increase() -> None:
    nothing = Expectation(mean=0.0, error=0.0, spread=0.0, units=0)
    assert judge(change(0.0, 0.0), expected=nothing, unchanged=True).outcome == FAILED


def test_overshoot_fails() -> None:
    decision = judge(change(0.4, 0.1))
    assert decision.outcome == FAILED
    assert decision.reason.startswith("overshoot")


def test_possible_overshoot_is_inconclusive() -> None:
    decision = judge(change(0.3, 0.1))
    assert decision.outcome == INCONCLUSIVE
    assert "overshoot" in decision.reason


@pytest.mark.parametrize(("users", "outcome"), [(1, PASSED), (100, FAILED)])
def test_the_ceiling_is_higher_for_fewer_users(users: int, outcome: str) -> None:
    # Three times the spread of 0.1 is allowed for one user, but not for the mean of 100 users.
    expected = Expectation(mean=0.1, error=0.01, spread=0.1, units=users)
    assert judge(change(0.35, 0.05), expected=expected).outcome == outcome


def test_loss_increase_on_holdout_users_fails() -> None:
    decision = judge(change(0.1, 0.03), holdout=change(0.03, 0.01))
    assert decision.outcome == FAILED
    assert "holdout users" in decision.reason


def test_loss_increase_on_test_rows_fails() -> None:
    decision = judge(change(0.1, 0.03), test=change(0.03, 0.01))
    assert decision.outcome == FAILED
    assert "test rows" in decision.reason


def test_uncertain_collateral_loss_passes() -> None:
    unsure = change(0.03, 0.025)
    assert judge(change(0.1, 0.03), holdout=unsure, test=unsure).outcome == PASSED


def test_lower_loss_on_other_rows_passes() -> None:
    gain = change(-0.2, 0.01)
    assert judge(change(0.1, 0.03), holdout=gain, test=gain).outcome == PASSED


@pytest.mark.parametrize(("mean", "width"), [(0.1, 0.09), (0.1, math.inf), (0.0, 0.2)])
def test_few_rows_are_inconclusive(mean: float, width: float) -> None:
    decision = judge(change(mean, width))
    assert decision.outcome == INCONCLUSIVE
    assert "too few rows" in decision.reason


@pytest.mark.parametrize("mean", [0.01, 0.0, -0.01])
def test_an_expected_loss_increase_within_its_error_is_inconclusive(mean: float) -> None:
    vague = Expectation(mean=mean, error=0.01, spread=0.05, units=10)
    decision = judge(change(0.02, 0.01), expected=vague)
    assert decision.outcome == INCONCLUSIVE
    assert "too small to be measured" in decision.reason


def test_no_expected_loss_increase_never_passes() -> None:
    nothing = Expectation(mean=0.0, error=0.0, spread=0.0, units=0)
    assert judge(change(0.0, 0.01), expected=nothing).outcome == INCONCLUSIVE
    assert judge(change(0.1, 0.01), expected=nothing).outcome == FAILED


def test_an_undefined_expected_loss_increase_never_passes() -> None:
    undefined = Expectation(mean=math.nan, error=math.nan, spread=math.nan, units=1)
    assert judge(change(0.1, 0.03), expected=undefined).outcome != PASSED


@pytest.mark.parametrize("part", ["movement", "holdout", "test"])
def test_an_undefined_difference_never_passes(part: str) -> None:
    undefined = Difference(mean=math.nan, low=math.nan, high=math.nan, rows=300)
    parts = {"movement": change(0.1, 0.03), "holdout": STILL, "test": STILL, part: undefined}
    movement = parts.pop("movement")
    assert judge(movement, **parts).outcome != PASSED  # type: ignore[arg-type] # three Differences


def test_paired_difference_by_hand() -> None:
    paired = paired_difference(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]), 0.95)
    # Mean 1, standard deviation 1, two degrees of freedom.
    width = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert paired.mean == pytest.approx(1)
    assert (paired.low, paired.high) == pytest.approx((1 - width, 1 + width))
    assert paired.figures() == {"mean": 1.0, "interval": [paired.low, paired.high], "rows": 3}


@pytest.mark.parametrize("rows", [0, 1])
def test_a_difference_of_fewer_than_two_rows_is_unbounded(rows: int) -> None:
    paired = paired_difference(np.zeros(rows), np.ones(rows), 0.95)
    assert (paired.low, paired.high, paired.rows) == (-math.inf, math.inf, rows)
    assert paired.mean == rows


def test_contrast_by_hand() -> None:
    movement = contrast(change(0.5, 0.3), change(0.1, 0.4))
    assert movement.mean == pytest.approx(0.4)
    assert (movement.low, movement.high) == pytest.approx((-0.1, 0.9))
    assert movement.rows == 300


def test_contrast_without_holdout_users_is_inconclusive() -> None:
    holdout = paired_difference(np.empty(0), np.empty(0), 0.95)
    decision = judge(contrast(change(0.1, 0.01), holdout), holdout=holdout)
    assert decision.outcome == INCONCLUSIVE
