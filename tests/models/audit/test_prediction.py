"""Intervals over seeds, with coverage on planted data and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from models.audit.prediction import (
    calibration_error,
    difference_of_means,
    loss_difference,
    mean_interval,
    prediction_interval,
)


def test_prediction_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, t(.975, 2) = 4.3027: width 4.3027 · √(1 + 1/3).
    low, high = prediction_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.968, 2 + 4.968), abs=1e-3)
    of_three = prediction_interval([1.0, 2.0, 3.0], runs=3)
    assert of_three[1] - 2 == pytest.approx(4.3027 * np.sqrt(2 / 3), abs=1e-3)
    with pytest.raises(ValueError, match="two runs"):
        prediction_interval([1.0])


@pytest.mark.parametrize("runs", [1, 3])
def test_prediction_interval_covers_further_runs_and_the_range_does_not(runs: int) -> None:
    generator = np.random.default_rng(0)
    covered = in_range = 0
    for _ in range(1000):
        values, new = generator.normal(size=8), generator.normal(size=runs).mean()
        low, high = prediction_interval(values.tolist(), runs)
        covered += low <= new <= high
        in_range += values.min() <= new <= values.max()
    assert 930 <= covered <= 970
    if runs == 1:
        assert in_range < 820


def test_mean_interval_is_students() -> None:
    values = [0.1, 0.3, 0.2]
    interval = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert mean_interval([0.1]) is None


def test_difference_of_means_is_welchs() -> None:
    first, second = [1.0, 2.0, 4.0], [0.0, 0.1, 0.3, 0.2]
    interval = difference_of_means(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert difference_of_means([1.0], second) is None


def test_loss_difference_covers_with_users_and_seeds() -> None:
    """Users and seeds have effects of their own; an interval over rows would be too narrow."""
    generator = np.random.default_rng(1)
    users = np.repeat(np.arange(50), 40)
    covered = by_rows = 0
    for _ in range(300):
        effects = 0.02 * generator.normal(size=50)[users]
        seeds = 0.004 * generator.normal(size=(4, 1))
        differences = 0.01 + effects + seeds + 0.05 * generator.normal(size=(4, len(users)))
        interval = loss_difference(differences, users)
        assert interval is not None
        covered += interval.low <= 0.01 <= interval.high
        rows = differences.mean(0)
        by_rows += abs(rows.mean() - 0.01) <= 1.96 * rows.std() / np.sqrt(len(rows))
    assert 0.92 <= covered / 300 <= 0.99
    assert by_rows / 300 < 0.8
    assert loss_difference(differences[:1], users) is None


def test_calibration_error_of_planted_probabilities() -> None:
    generator = np.random.default_rng(2)
    margins = generator.normal(scale=1.5, size=40_000)
    labels = (generator.random(40_000) < 1 / (1 + np.exp(-margins))).astype(float)
    assert calibration_error(labels, margins) < 0.01
    # Every answer is P(Yes) = .8 and 60 % are likes.
    labels = (np.arange(1000) % 10 < 6).astype(float)
    assert calibration_error(labels, np.full(1000, np.log(4))) == pytest.approx(0.2, abs=0.01)
    assert np.isnan(calibration_error(np.empty(0), np.empty(0)))
