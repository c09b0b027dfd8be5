"""Compare losses with stored figures: hand-computed values, chance, and too few rows."""

from __future__ import annotations

import numpy as np
import pytest

from models.audit.drift import (
    MINIMUM_USERS,
    LossFigures,
    RowLosses,
    compare_with_root,
    loss_figures,
)

BUDGET = 0.05


def rows_of(users: int, rows: int, seed: int = 0) -> RowLosses:
    """Return losses of users who differ from each other, `rows` rows of each."""
    generator = np.random.default_rng(seed)
    level = generator.uniform(0.3, 0.9, users)
    losses = np.repeat(level, rows) + generator.uniform(-0.2, 0.2, users * rows)
    return RowLosses(users=np.repeat(np.arange(users, dtype=np.int32), rows), losses=losses)


def figures_of(rows: RowLosses) -> LossFigures:
    figures = LossFigures.from_manifest(loss_figures(rows))
    assert figures is not None
    return figures


def test_figures_equal_hand_computed_values() -> None:
    rows = RowLosses(users=np.array([0, 0, 1, 2], np.int32), losses=np.array([0.2, 0.4, 0.6, 0.8]))
    figures = LossFigures.of(rows)
    assert (figures.rows, figures.users) == (4, 3)
    assert figures.loss == pytest.approx(0.5)
    assert figures.row_deviation == pytest.approx(np.sqrt((0.09 + 0.01 + 0.01 + 0.09) / 3))
    # The users' sums of differences are -0.4, 0.1 and 0.3; a user has 4 / 3 rows on average.
    assert figures.user_deviation == pytest.approx(np.sqrt((0.16 + 0.01 + 0.09) / 2) * 3 / 4)


def test_any_increase_of_the_same_rows_counts() -> None:
    rows = rows_of(40, 10)
    worse = RowLosses(users=rows.users, losses=rows.losses * 1.001)
    drift = compare_with_root(figures_of(rows), worse, BUDGET)
    assert drift["noise"] == 0.0
    assert drift["increase"] == drift["measured"] == pytest.approx(0.001)
    better = RowLosses(users=rows.users, losses=rows.losses * 0.9)
    assert compare_with_root(figures_of(rows), better, BUDGET)["increase"] == 0.0


@pytest.mark.parametrize("is_user_left", [True, False])
def test_rows_that_leave_are_no_drift(is_user_left: bool) -> None:
    """With the same losses, the increase counts in about 2 % of the draws of who leaves."""
    rows = rows_of(200, 10)
    root = figures_of(rows)
    counted = []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        units = 200 if is_user_left else len(rows.losses)
        is_left = np.ones(units, bool)
        is_left[generator.choice(units, units // 10, replace=False)] = False
        rest = rows.take(is_left[rows.users] if is_user_left else is_left)
        drift = compare_with_root(root, rest, BUDGET)
        assert 0 < drift["noise"] < BUDGET
        counted.append(drift["increase"] > 0)
    assert 0 < np.mean(counted) < 0.06


def test_increase_beyond_noise_counts_in_full() -> None:
    rows = rows_of(200, 10)
    rest = rows.take(rows.users < 180)
    worse = RowLosses(users=rest.users, losses=rest.losses * 1.2)
    drift = compare_with_root(figures_of(rows), worse, BUDGET)
    assert drift["increase"] == drift["measured"] > 0.1
    assert drift["loss"] == pytest.approx(worse.losses.mean())
    assert drift["root_loss"] == pytest.approx(rows.losses.mean())


def test_too_few_rows_are_not_compared() -> None:
    rows = rows_of(40, 10)
    root = figures_of(rows)
    few_users = rows.take(rows.users < MINIMUM_USERS - 1)
    assert compare_with_root(root, few_users, BUDGET) == {
        "rows": 40,
        "reason": "too few rows or users are left",
    }
    # Six users are enough for a mean, but not to tell 5 % from chance.
    drift = compare_with_root(root, rows.take(rows.users < MINIMUM_USERS + 1), BUDGET)
    assert drift["noise"] > BUDGET
    assert "increase" not in drift
    assert "chance" in drift["reason"]


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(MINIMUM_USERS - 1, 100),
        rows_of(MINIMUM_USERS, 3),
        RowLosses(users=np.arange(50, dtype=np.int32), losses=np.full(50, np.nan)),
        RowLosses(users=np.zeros(0, np.int32), losses=np.zeros(0)),
    ],
    ids=["few users", "few rows", "broken weights", "no rows"],
)
def test_no_figures_of_few_rows_or_persons_are_stored(rows: RowLosses) -> None:
    figures = loss_figures(rows)
    assert figures == {"rows": len(rows.losses)}
    assert LossFigures.from_manifest(figures) is None
    drift = compare_with_root(None, rows_of(40, 10), BUDGET)
    assert "stored no figures" in drift["reason"]
