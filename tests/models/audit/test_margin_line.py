"""Slope and offset of a method's margin over Retrain's margin, with noise on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from models.audit.margin_line import margin_line
from models.audit.systematic import Runs, TooFewRunsError

SLOPE, OFFSET = 0.7, -0.3


def planted(seed: int, people: int = 80, each: int = 20) -> tuple[Runs, Runs, np.ndarray]:
    """Return runs on a planted line; noise is as large as the signal, and shared by seeds."""
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    expected = generator.normal(size=people * each) + 0.5 * generator.normal(size=people)[person]
    other = generator.normal(size=(4, len(person)))
    own = 0.5 * generator.normal(size=(3, len(person))) + 0.2 * other[:3]
    return (
        Runs(margins=OFFSET + SLOPE * expected + own, seeds=(0, 1, 2)),
        Runs(margins=expected + other, seeds=(0, 1, 2, 3)),
        person,
    )


def test_noise_of_the_regressor_does_not_change_the_slope() -> None:
    lines = [margin_line(*planted(seed)) for seed in range(20)]
    slopes = [line.slope for line in lines]
    error = np.std(slopes) / np.sqrt(20)
    assert np.mean(slopes) == pytest.approx(SLOPE, abs=4 * error)
    assert error < 0.02
    assert np.mean([line.offset for line in lines]) == pytest.approx(OFFSET, abs=0.02)
    first, second, _ = planted(0)
    x, y = second.margins.mean(0), first.margins.mean(0)
    ordinary = np.cov(x, y)[0, 1] / x.var(ddof=1)
    assert abs(ordinary - SLOPE) > 0.05  # Attenuated.


def test_interval_covers_the_planted_slope() -> None:
    covered = 0
    for seed in range(40):
        line = margin_line(*planted(100 + seed))
        assert line.slope_interval is not None
        covered += line.slope_interval[0] <= SLOPE <= line.slope_interval[1]
    assert covered >= 32


def test_equal_expectations_give_slope_one_and_no_offset() -> None:
    generator = np.random.default_rng(0)
    margins = generator.normal(size=400)
    runs = [Runs(margins=np.stack([margins] * 2), seeds=seeds) for seeds in ((0, 1), (2, 3))]
    line = margin_line(runs[0], runs[1], np.zeros(400, int))
    assert (line.slope, line.offset) == pytest.approx((1, 0))
    assert line.slope_interval is None


def test_constant_or_single_references_are_refused() -> None:
    runs = Runs(margins=np.ones((2, 4)), seeds=(0, 1))
    with pytest.raises(TooFewRunsError, match="do not differ"):
        margin_line(runs, runs, np.arange(4))
    with pytest.raises(TooFewRunsError, match="two runs"):
        margin_line(runs, runs.take([0]), np.arange(4))
