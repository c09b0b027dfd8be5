"""The systematic distance on margins with a planted distance and planted noise."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.audit.person_model import effective_number
from models.audit.systematic import (
    Runs,
    TooFewRunsError,
    per_person_means,
    split_control,
    squared_differences,
    systematic_distance,
    variance_ratio,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEOPLE = 60


def people_of(generator: np.random.Generator) -> NDArray[np.int64]:
    rows = np.maximum(1, generator.lognormal(2.5, 0.8, PEOPLE).astype(int))
    return np.repeat(np.arange(PEOPLE), rows)


def noise(
    generator: np.random.Generator, runs: int, people: NDArray[np.int64], common: float
) -> NDArray[np.float64]:
    """Return noise of seeds: by row, by person, and `common` to all rows of a run."""
    by_person = generator.normal(scale=0.2, size=(runs, PEOPLE))[:, people]
    by_row = generator.normal(scale=0.3, size=(runs, len(people)))
    return by_row + by_person + common * generator.normal(size=(runs, 1))


def both_sides(
    generator: np.random.Generator,
    difference: NDArray[np.float64],
    people: NDArray[np.int64],
    runs: tuple[int, int],
    *,
    common: float = 0.0,
    shared: float = 0.0,
) -> tuple[Runs, Runs]:
    """Return runs whose expected margins differ by `difference`.

    Runs of the same seed share `shared` times the second side's noise.
    """
    base = generator.normal(scale=1.5, size=len(people))
    own, other = (noise(generator, count, people, common) for count in runs)
    both = min(runs)
    own[:both] += shared * other[:both]
    return (
        Runs(margins=base + difference + own, seeds=tuple(range(runs[0]))),
        Runs(margins=base + other, seeds=tuple(range(runs[1]))),
    )


def test_distance_without_common_seeds_is_the_squared_difference_less_both_noises() -> None:
    first = Runs(margins=np.array([[1.0, 0.0], [3.0, 2.0]]), seeds=(0, 1))
    second = Runs(margins=np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 3.0]]), seeds=(2, 3, 4))
    expected = (first.margins.mean(0) - second.margins.mean(0)) ** 2
    expected -= first.margins.var(0, ddof=1) / 2 + second.margins.var(0, ddof=1) / 3
    assert squared_differences(first, second) == pytest.approx(expected)


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("runs", [(2, 4), (3, 8)])
def test_estimate_is_unbiased(runs: tuple[int, int], shared: float) -> None:
    generator = np.random.default_rng(1)
    people = people_of(generator)
    difference = generator.normal(scale=0.2, size=len(people))
    estimates = [
        squared_differences(
            *both_sides(generator, difference, people, runs, common=0.1, shared=shared)
        ).mean()
        for _ in range(400)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx((difference**2).mean(), abs=4 * error)
    assert error < 0.004


def test_subtracting_both_variances_would_be_biased_for_dependent_seeds() -> None:
    generator = np.random.default_rng(9)
    people = people_of(generator)
    naive, estimates = [], []
    for _ in range(200):
        first, second = both_sides(generator, np.zeros(len(people)), people, (3, 8), shared=0.8)
        means = [side.margins.mean(0) for side in (first, second)]
        noises = [side.margins.var(0, ddof=1) / len(side) for side in (first, second)]
        naive.append(((means[0] - means[1]) ** 2 - noises[0] - noises[1]).mean())
        estimates.append(squared_differences(first, second).mean())
    assert np.mean(naive) < -0.015
    assert np.mean(estimates) == pytest.approx(0, abs=0.003)


@pytest.mark.parametrize("common", [0.0, 0.15])
@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_interval_covers_the_planted_distance(scale: float, common: float) -> None:
    """Every draw has new people, so that the interval is about the population of people."""
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(60):
        people = people_of(generator)
        difference = scale * generator.normal(size=PEOPLE)[people]
        sides = both_sides(generator, difference, people, (4, 8), common=common)
        distance = systematic_distance(*sides, people)
        assert distance.low is not None
        assert distance.high is not None
        covered.append(distance.low <= scale**2 <= distance.high)
    # With 95 % coverage, fewer than 52 of 60 have a chance of .6 %.
    assert sum(covered) >= 52


def test_planted_distance_is_told_from_zero() -> None:
    generator = np.random.default_rng(3)
    people = people_of(generator)
    difference = 0.4 * generator.normal(size=PEOPLE)[people]
    distance = systematic_distance(
        *both_sides(generator, difference, people, (3, 8), common=0.1), people
    )
    assert distance.low is not None
    assert distance.low > 0
    assert distance.covers_zero is False
    assert distance.rows == len(people)
    assert distance.people == PEOPLE


def test_interval_over_rows_would_be_too_narrow() -> None:
    """Rows of one person depend on each other, so clustering must widen the interval."""
    generator = np.random.default_rng(4)
    people = np.repeat(np.arange(40), 50)
    row_wise = clustered = 0
    truth, repeats = 0.3**2, 60
    for _ in range(repeats):
        difference = 0.3 * generator.normal(size=40)[people]
        own, other = (generator.normal(scale=0.05, size=(4, len(people))) for _ in range(2))
        first = Runs(margins=difference + own, seeds=(0, 1, 2, 3))
        second = Runs(margins=other, seeds=(4, 5, 6, 7))
        rows = squared_differences(first, second)
        width = NormalDist().inv_cdf(0.975) * rows.std(ddof=1) / np.sqrt(len(rows))
        row_wise += abs(rows.mean() - truth) <= width
        distance = systematic_distance(first, second, people)
        assert distance.low is not None
        assert distance.high is not None
        clustered += distance.low <= truth <= distance.high
    assert row_wise / repeats < 0.5
    assert clustered / repeats >= 0.85


def test_effective_number_counts_people_by_their_rows() -> None:
    assert effective_number(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert effective_number(np.array([100, 1, 1])) == pytest.approx(102**2 / 10_002)


def test_means_per_person_are_in_order_of_people() -> None:
    means, rows = per_person_means(np.array([1.0, 5.0, 3.0]), np.array([7, 2, 7]))
    assert means.tolist() == [5.0, 2.0]
    assert rows.tolist() == [1, 2]


def test_one_person_or_two_runs_have_no_interval() -> None:
    generator = np.random.default_rng(5)
    sides = [
        Runs(margins=generator.normal(size=(4, 6)), seeds=tuple(range(4 * side, 4 * side + 4)))
        for side in (0, 1)
    ]
    alone = systematic_distance(sides[0], sides[1], np.zeros(6, int))
    assert (alone.low, alone.high, alone.covers_zero) == (None, None, None)
    few = systematic_distance(sides[0].take([0, 1]), sides[1], np.arange(6))
    assert few.low is None
    assert few.distance == pytest.approx(
        squared_differences(sides[0].take([0, 1]), sides[1]).mean()
    )


@pytest.mark.parametrize(("first", "second"), [((0,), (1, 2)), ((0, 1), (0, 1)), ((0, 0), (1, 2))])
def test_runs_without_independent_pairs_are_refused(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    sides = [Runs(margins=np.zeros((len(seeds), 3)), seeds=seeds) for seeds in (first, second)]
    if (first, second) == ((0, 1), (0, 1)):
        # The pairs (0, 0) and (1, 1) share no seed, so this is measurable.
        assert squared_differences(*sides) == pytest.approx(np.zeros(3))
        return
    with pytest.raises(TooFewRunsError, match="two runs on each side"):
        squared_differences(*sides)


def test_retrain_against_retrain_covers_zero_and_averages_to_zero() -> None:
    generator = np.random.default_rng(6)
    people = people_of(generator)
    margins = noise(generator, 8, people, 0.1)
    splits = split_control(Runs(margins=margins, seeds=tuple(range(8))), 3, people)
    assert len(splits) == 56
    assert np.mean([split.distance for split in splits]) == pytest.approx(0, abs=1e-12)
    assert np.mean([split.covers_zero for split in splits]) >= 0.9


def test_control_detects_runs_that_are_not_of_one_kind() -> None:
    """Two kinds of Retrain runs, for example of two versions of a library."""
    generator = np.random.default_rng(7)
    people = people_of(generator)
    margins = noise(generator, 8, people, 0.0)
    margins[:4] += 2 * generator.normal(size=PEOPLE)[people]
    retrained = Runs(margins=margins, seeds=tuple(range(8)))
    splits = split_control(retrained, 4, people)
    assert max(split.distance for split in splits) > 1
    with pytest.raises(TooFewRunsError):
        split_control(retrained.take(range(3)), 2, people)


def test_variance_ratio_is_the_ratio_of_seed_variances() -> None:
    generator = np.random.default_rng(8)
    base = generator.normal(size=5000)
    first = Runs(margins=base + generator.normal(scale=0.6, size=(4, 5000)), seeds=(0, 1, 2, 3))
    second = Runs(margins=generator.normal(scale=0.3, size=(4, 5000)), seeds=(0, 1, 2, 3))
    assert variance_ratio(first, second) == pytest.approx(4, rel=0.1)
    assert variance_ratio(first.take([0]), second) is None
    assert variance_ratio(first, Runs(margins=np.zeros((2, 5000)), seeds=(0, 1))) is None
