"""Sums over samples with shared histories, compared with sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.data.samples import HISTORY_LENGTH, Samples
from models.data.shared_history import shared_history_sums


def samples_of(users: list[int], histories: list[list[int]]) -> Samples:
    """Return samples with these histories, right-aligned."""
    history = np.full((len(users), HISTORY_LENGTH), -1, np.int32)
    for row, items in enumerate(histories):
        history[row, HISTORY_LENGTH - len(items) :] = items
    count = len(users)
    return Samples(
        user=np.array(users, np.int32),
        candidate=np.arange(100, 100 + count, dtype=np.int32),
        label=np.ones(count, np.float32),
        timestamp=np.arange(count, dtype=np.int64),
        history=history,
        history_rating=np.where(history >= 0, 8, 0).astype(np.int64),
        earlier=np.full(count, 5, np.int32),
    )


def test_weights_are_the_shared_items_over_the_square_of_the_history_length() -> None:
    samples = samples_of([0, 0], [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]])
    sums = shared_history_sums(samples, np.array([1.0, 10.0]))
    assert sums == pytest.approx([(5 + 40) / 100, (4 + 50) / 100])


def test_people_share_nothing_although_their_histories_are_equal() -> None:
    samples = samples_of([0, 1], [[1, 2, 3, 4, 5]] * 2)
    assert shared_history_sums(samples, np.array([1.0, 7.0])) == pytest.approx([0.05, 0.35])


def test_a_long_history_of_equal_values_has_their_mean_in_its_middle() -> None:
    items = list(range(60))
    histories = [items[start : start + HISTORY_LENGTH] for start in range(40)]
    sums = shared_history_sums(samples_of([3] * 40, histories), np.full(40, 2.5))
    assert sums[20] == pytest.approx(2.5)
    assert sums[0] < 2.5


def test_no_samples_have_no_sums() -> None:
    samples = samples_of([0], [[1, 2, 3, 4, 5]]).take(np.zeros(1, bool))
    assert shared_history_sums(samples, np.zeros(0)).shape == (0,)


def test_samples_without_history_share_nothing() -> None:
    samples = samples_of([0, 0], [[], []])
    assert shared_history_sums(samples, np.array([1.0, 2.0])).tolist() == [0.0, 0.0]
