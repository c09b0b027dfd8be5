"""Test the model of a person's change: estimates, weights, and what the views do not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.audit.evidence import AnsweredRows, Evidence, Shift
from models.audit.person_model import Fit, People, deviations, effective_number


def rows_of(users: np.ndarray, rng: np.random.Generator) -> AnsweredRows:
    old, new, old_neighbors, new_neighbors = rng.normal(size=(4, len(users)))
    return AnsweredRows(
        users=users,
        labels=(rng.random(len(users)) < 0.5).astype(np.float64),
        kinds=np.zeros(len(users), np.int64),
        old=old,
        new=new,
        old_neighbors=old_neighbors,
        new_neighbors=new_neighbors,
    )


def test_deviations_of_people_and_rows_are_recovered() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(3000), rng.integers(1, 20, 3000))
    values = rng.normal(0, 0.3, 3000)[users] + rng.normal(0, 0.5, len(users))
    estimated = deviations(People.of(users), values)
    assert estimated.person == pytest.approx(0.3, rel=0.05)
    assert estimated.row == pytest.approx(0.5, rel=0.02)


def test_the_standard_error_of_a_fit_covers_the_truth() -> None:
    """The error is over people: with rows as units, most intervals would miss the truth."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        users = np.repeat(np.arange(60), rng.integers(1, 80, 60))
        features = np.column_stack([np.ones(len(users)), rng.normal(size=(len(users), 2))])
        change = (
            features @ [-0.1, 0.05, 0.02]
            + rng.normal(0, 0.1, 60)[users]
            + rng.normal(0, 0.2, len(users))
        )
        fit = Fit.of(Shift(users=users, change=change, features=features), change)
        error = np.sqrt(fit.covariance[0, 0])
        covered += abs(fit.coefficients[0] + 0.1) < 2 * error
    assert covered >= 180


def test_ten_people_with_half_of_the_rows_count_less() -> None:
    weights = np.r_[np.full(10, 7.4), np.full(74, 1.0)]
    assert effective_number(weights) < 40
    assert effective_number(np.ones(84)) == pytest.approx(84)
    assert effective_number(np.zeros(0)) == 0


@given(st.floats(-3, 3), st.floats(0.2, 4), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_bias_and_temperature_of_all_answers_change_no_exposure(
    bias: float, temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    forget, controls = (rows_of(np.arange(40), rng) for _ in range(2))

    def candidate(rows: AnsweredRows) -> AnsweredRows:
        return AnsweredRows(
            users=rows.users,
            labels=rows.labels,
            kinds=rows.kinds,
            old=rows.old,
            new=bias + temperature * rows.old,
            old_neighbors=rows.old_neighbors,
            new_neighbors=rows.new_neighbors,
        )

    evidence = Evidence(forget=candidate(forget), controls=candidate(controls))
    assert np.abs(evidence.views()["exposure"].forget.change).max() < 1e-9


@given(st.permutations(list(range(12))))
@settings(deadline=None, max_examples=20)
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    users = np.array([1, 1, 1, 1, 5, 5, 5, 9, 9, 9, 9, 9])
    features = np.column_stack([np.ones(12), rng.normal(size=(12, 2))])
    change = rng.normal(size=12)
    first = Fit.of(Shift(users=users, change=change, features=features), change)
    other = Shift(users=users[order], change=change[order], features=features[order])
    second = Fit.of(other, change[order])
    np.testing.assert_allclose(first.coefficients, second.coefficients, atol=1e-9)
    np.testing.assert_allclose(first.covariance, second.covariance, atol=1e-9)
