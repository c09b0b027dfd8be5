"""Test the distances per user against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.audit.divergence import jensen_shannon, jensen_shannon_rows, per_user

#: The margins of P(Yes) = 3/4 and 1/4, and their JSD.
LIKELY, UNLIKELY = math.log(3), -math.log(3)
FAR = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_jensen_shannon_is_the_mean_over_rows() -> None:
    first, second = np.array([LIKELY, 0.0]), np.array([UNLIKELY, 0.0])
    assert jensen_shannon_rows(first, second) == pytest.approx([FAR, 0.0])
    assert jensen_shannon(first, second) == pytest.approx(FAR / 2)


def test_per_user_by_hand() -> None:
    # User 7 has rows 0 and 2, user 3 has row 1; users are in ascending order.
    users = np.array([7, 3, 7])
    labels = np.array([1.0, 0.0, 0.0])
    own = np.array([LIKELY, 0.0, 0.0])
    retrained = np.array([[UNLIKELY, 0.0, 0.0], [LIKELY, LIKELY, 0.0]])
    distances = per_user(own, retrained, labels, users)
    assert distances.users.tolist() == [3, 7]
    assert distances.rows.tolist() == [1, 2]
    near = jensen_shannon(np.array([0.0]), np.array([LIKELY]))
    # Means over the two runs, then over the user's rows.
    assert distances.jsd == pytest.approx([near / 2, FAR / 2 / 2])
    # User 3: ln 2 against the mean of ln 2 and ln 4. User 7, first row: ln 4/3 against
    # the mean of ln 4 and ln 4/3; second row: no gap.
    assert distances.loss_gap == pytest.approx([-math.log(2) / 2, -math.log(3) / 2 / 2])


def test_the_worst_user_is_found_for_gaps_of_either_sign() -> None:
    users = np.arange(40)
    retrained = np.zeros((4, 40))
    own = np.zeros(40)
    own[5] = LIKELY  # Label 1: a lower loss than after retraining.
    distances = per_user(own, retrained, np.ones(40), users)
    summary = distances.summary()
    assert distances.loss_gap[5] == pytest.approx(math.log(4 / 3) - math.log(2))
    assert summary["user_loss_gap_worst"] == pytest.approx(math.log(2) - math.log(4 / 3))
    assert summary["user_jsd_worst"] == pytest.approx(distances.jsd[5])
    assert summary["user_jsd_mean"] == pytest.approx(distances.jsd[5] / 40)
    assert summary["user_jsd_p95"] == pytest.approx(0.0)


def test_users_with_few_rows_are_noisier() -> None:
    """This is why the worst user is compared with Retrain against Retrain."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), np.tile([2, 100], 50))
    runs = rng.normal(size=(5, len(users)))
    distances = per_user(runs[0], runs[1:], rng.integers(0, 2, len(users)).astype(float), users)
    few, many = distances.rows == 2, distances.rows == 100
    assert np.abs(distances.loss_gap[few]).max() > 3 * np.abs(distances.loss_gap[many]).max()


def test_arrays_are_json_values_without_ids() -> None:
    arrays = per_user(np.ones(3), np.zeros((2, 3)), np.ones(3), np.array([9, 9, 4])).arrays()
    assert set(arrays) == {"rows", "jsd", "loss_gap"}
    assert arrays["rows"] == [1, 2]
    assert all(isinstance(value, float) for value in arrays["jsd"])


def test_no_rows_raise_an_error() -> None:
    with pytest.raises(ValueError, match="no forget rows"):
        per_user(np.empty(0), np.empty((2, 0)), np.empty(0), np.empty(0, int))
