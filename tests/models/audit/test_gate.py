"""The gate's lines: what never forgot fails, what overdid it fails, and doubt is called doubt."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

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

#: A model that never saw the rows would show a rise of 0.1 ± 0.01 nats; ten people.
EXPECTED = Expectation(mean=0.1, error=0.01, spread=0.05, units=10)
STILL = Difference(mean=0.0, low=-0.001, high=0.001, rows=500)


def change(mean: float, reach: float) -> Difference:
    return Difference(mean=mean, low=mean - reach, high=mean + reach, rows=300)


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
    assert "as unseen rows would" in decision.reason


def test_the_lines_that_it_was_judged_by_are_reported() -> None:
    decision = judge(change(0.1, 0.03))
    assert decision.floor == pytest.approx(0.025)
    assert decision.ceiling == pytest.approx(0.25)


@pytest.mark.parametrize("mean", [0.0, -0.05, 0.01])
def test_no_movement_fails(mean: float) -> None:
    decision = judge(change(mean, 0.01))
    assert decision.outcome == FAILED
    assert decision.reason.startswith("no movement")


def test_unchanged_answers_fail_whatever_the_rows_say() -> None:
    for movement in (change(0.0, 0.0), change(0.1, 0.03), change(0.0, math.inf)):
        decision = judge(movement, unchanged=True)
        assert decision.outcome == FAILED
        assert "nothing was unlearned" in decision.reason


def test_unchanged_answers_fail_even_where_nothing_is_expected() -> None:
    nothing = Expectation(mean=0.0, error=0.0, spread=0.0, units=0)
    assert judge(change(0.0, 0.0), expected=nothing, unchanged=True).outcome == FAILED


def test_overshoot_fails() -> None:
    decision = judge(change(0.4, 0.1))
    assert decision.outcome == FAILED
    assert decision.reason.startswith("overshoot")


def test_perhaps_overshoot_is_inconclusive() -> None:
    decision = judge(change(0.3, 0.1))
    assert decision.outcome == INCONCLUSIVE
    assert "overshoot" in decision.reason


@pytest.mark.parametrize(("people", "outcome"), [(1, PASSED), (100, FAILED)])
def test_single_people_may_differ_more_than_many(people: int, outcome: str) -> None:
    # Three times the spread of 0.1 is allowed to one person, but not to a hundred at once.
    expected = Expectation(mean=0.1, error=0.01, spread=0.1, units=people)
    assert judge(change(0.35, 0.05), expected=expected).outcome == outcome


def test_loss_of_the_holdout_fails() -> None:
    decision = judge(change(0.1, 0.03), holdout=change(0.03, 0.01))
    assert decision.outcome == FAILED
    assert "never trained on" in decision.reason


def test_loss_of_everybody_else_fails() -> None:
    decision = judge(change(0.1, 0.03), test=change(0.03, 0.01))
    assert decision.outcome == FAILED
    assert "everybody else" in decision.reason


def test_collateral_must_be_sure_before_it_fails() -> None:
    unsure = change(0.03, 0.025)
    assert judge(change(0.1, 0.03), holdout=unsure, test=unsure).outcome == PASSED


def test_everybody_else_may_gain() -> None:
    gain = change(-0.2, 0.01)
    assert judge(change(0.1, 0.03), holdout=gain, test=gain).outcome == PASSED


@pytest.mark.parametrize(("mean", "reach"), [(0.1, 0.09), (0.1, math.inf), (0.0, 0.2)])
def test_few_rows_are_inconclusive(mean: float, reach: float) -> None:
    decision = judge(change(mean, reach))
    assert decision.outcome == INCONCLUSIVE
    assert "too few rows" in decision.reason


@pytest.mark.parametrize("mean", [0.01, 0.0, -0.01])
def test_an_expectation_within_its_error_is_inconclusive(mean: float) -> None:
    vague = Expectation(mean=mean, error=0.01, spread=0.05, units=10)
    decision = judge(change(0.02, 0.01), expected=vague)
    assert decision.outcome == INCONCLUSIVE
    assert "too little to be measured" in decision.reason


def test_no_expectation_at_all_is_never_a_pass() -> None:
    nothing = Expectation(mean=0.0, error=0.0, spread=0.0, units=0)
    assert judge(change(0.0, 0.01), expected=nothing).outcome == INCONCLUSIVE
    assert judge(change(0.1, 0.01), expected=nothing).outcome == FAILED


def test_an_undefined_expectation_is_never_a_pass() -> None:
    undefined = Expectation(mean=math.nan, error=math.nan, spread=math.nan, units=1)
    assert judge(change(0.1, 0.03), expected=undefined).outcome != PASSED


@pytest.mark.parametrize("where", ["movement", "holdout", "test"])
def test_an_undefined_difference_is_never_a_pass(where: str) -> None:
    undefined = Difference(mean=math.nan, low=math.nan, high=math.nan, rows=300)
    parts = {"movement": change(0.1, 0.03), "holdout": STILL, "test": STILL, where: undefined}
    movement = parts.pop("movement")
    assert judge(movement, **parts).outcome != PASSED  # type: ignore[arg-type] # three Differences


def test_paired_difference_by_hand() -> None:
    found = paired_difference(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]), 0.95)
    # Mean 1, standard deviation 1, two degrees of freedom.
    reach = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert found.mean == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach))
    assert found.figures() == {"mean": 1.0, "interval": [found.low, found.high], "rows": 3}


@pytest.mark.parametrize("rows", [0, 1])
def test_a_difference_of_fewer_than_two_rows_is_unbounded(rows: int) -> None:
    found = paired_difference(np.zeros(rows), np.ones(rows), 0.95)
    assert (found.low, found.high, found.rows) == (-math.inf, math.inf, rows)
    assert found.mean == rows


def test_contrast_by_hand() -> None:
    found = contrast(change(0.5, 0.3), change(0.1, 0.4))
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((-0.1, 0.9))
    assert found.rows == 300


def test_contrast_with_no_holdout_can_only_be_inconclusive() -> None:
    nobody = paired_difference(np.empty(0), np.empty(0), 0.95)
    decision = judge(contrast(change(0.1, 0.01), nobody), holdout=nobody)
    assert decision.outcome == INCONCLUSIVE
