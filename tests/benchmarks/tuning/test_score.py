"""The distance of trials with few seeds, without the noise of their first releases."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tuning.score import trial_distance
from models.audit.systematic import Runs

ROWS = 4000


def runs(margins: np.ndarray, seeds: tuple[int, ...] | None = None) -> Runs:
    return Runs(margins=margins, seeds=seeds or tuple(range(len(margins))))


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_distance_by_hand(seeds: int) -> None:
    # Original is 1 above Retrain, and the method moves two thirds of the way: (1/3)².
    retrained, originals = np.zeros((4, 3)), np.ones((4, 3))
    trial = runs(np.full((seeds, 3), 1 / 3))
    assert trial_distance(trial, runs(originals), runs(retrained)) == pytest.approx(1 / 9)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_noise_of_first_releases_does_not_count(seeds: int) -> None:
    generator = np.random.default_rng(0)
    retrained = 0.3 * generator.standard_normal((8, ROWS))
    originals = 0.2 + 0.3 * generator.standard_normal((4, ROWS))
    trial = runs(originals[:seeds] - 0.1)
    distance = trial_distance(trial, runs(originals), runs(retrained))
    assert distance == pytest.approx(0.1**2, abs=0.004)
    naive = float(((trial.margins[0] - retrained.mean(axis=0)) ** 2).mean())
    assert naive > 0.09


def test_the_noise_of_shifts_counts_with_one_seed_only() -> None:
    generator = np.random.default_rng(1)
    retrained, originals = np.zeros((4, ROWS)), np.full((4, ROWS), 0.2)
    noisy = originals[:2] - 0.1 + 0.3 * generator.standard_normal((2, ROWS))
    one = trial_distance(runs(noisy[:1]), runs(originals), runs(retrained))
    two = trial_distance(runs(noisy), runs(originals), runs(retrained))
    assert one == pytest.approx(0.01 + 0.09, abs=0.01)
    assert two == pytest.approx(0.01, abs=0.01)


def test_a_trial_without_its_original_is_refused() -> None:
    three = np.zeros((3, 2))
    with pytest.raises(ValueError, match="no Original run"):
        trial_distance(runs(three[:1], (7,)), runs(three), runs(three))
