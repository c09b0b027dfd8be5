"""Distances user by user, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.audit.divergence import jensen_shannon, jensen_shannon_rows, per_user

#: The margins of P(Yes) = 3/4 and 1/4, and their JSD.
LIKELY, UNLIKELY = math.log(3), -math.log(3)
FAR = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_rows_are_what_the_mean_is_made_of() -> None:
    one, two = np.array([LIKELY, 0.0]), np.array([UNLIKELY, 0.0])
    assert jensen_shannon_rows(one, two) == pytest.approx([FAR, 0.0])
    assert jensen_shannon(one, two) == pytest.approx(FAR / 2)


def test_per_user_by_hand() -> None:
    # User 7 has rows 0 and 2, user 3 row 1; the users come in ascending order.
    users = np.array([7, 3, 7])
    labels = np.array([1.0, 0.0, 0.0])
    own = np.array([LIKELY, 0.0, 0.0])
    retrained = np.array([[UNLIKELY, 0.0, 0.0], [LIKELY, LIKELY, 0.0]])
    found = per_user(own, retrained, labels, users)
    assert found.users.tolist() == [3, 7]
    assert found.rows.tolist() == [1, 2]
    near = jensen_shannon(np.array([0.0]), np.array([LIKELY]))
    # Means over the two runs, then over the user's rows.
    assert found.jsd == pytest.approx([near / 2, FAR / 2 / 2])
    # User 3: ln 2 against the mean of ln 2 and ln 4. User 7, first row: ln 4/3 against
    # the mean of ln 4 and ln 4/3; second row: no gap.
    assert found.loss_gap == pytest.approx([-math.log(2) / 2, -math.log(3) / 2 / 2])


def test_the_worst_user_counts_either_way() -> None:
    users = np.arange(40)
    retrained = np.zeros((4, 40))
    own = np.zeros(40)
    own[5] = LIKELY  # Label 1: knows the row better than retraining.
    found = per_user(own, retrained, np.ones(40), users)
    summary = found.summary()
    assert found.loss_gap[5] == pytest.approx(math.log(4 / 3) - math.log(2))
    assert summary["user_loss_gap_worst"] == pytest.approx(math.log(2) - math.log(4 / 3))
    assert summary["user_jsd_worst"] == pytest.approx(found.jsd[5])
    assert summary["user_jsd_mean"] == pytest.approx(found.jsd[5] / 40)
    assert summary["user_jsd_p95"] == pytest.approx(0.0)


def test_users_of_few_rows_are_worse_by_chance_alone() -> None:
    """Why Retrain against Retrain stands beside the worst user."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), np.tile([2, 100], 50))
    runs = rng.normal(size=(5, len(users)))
    found = per_user(runs[0], runs[1:], rng.integers(0, 2, len(users)).astype(float), users)
    few, many = found.rows == 2, found.rows == 100
    assert np.abs(found.loss_gap[few]).max() > 3 * np.abs(found.loss_gap[many]).max()


def test_arrays_are_plain_and_without_ids() -> None:
    arrays = per_user(np.ones(3), np.zeros((2, 3)), np.ones(3), np.array([9, 9, 4])).arrays()
    assert set(arrays) == {"rows", "jsd", "loss_gap"}
    assert arrays["rows"] == [1, 2]
    assert all(isinstance(value, float) for value in arrays["jsd"])


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no forget rows"):
        per_user(np.empty(0), np.empty((2, 0)), np.empty(0), np.empty(0, int))
