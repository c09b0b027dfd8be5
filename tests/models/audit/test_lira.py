"""Test calibrated membership inference by hand and on Gaussians of known distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from models.audit.lira import (
    TooFewModelsError,
    confidences,
    lira,
    loss_auc,
    roc_curve,
    separation,
)

ROWS = 20_000
#: Standard deviations of a row between runs, and of the rows' means.
RUN, BETWEEN = 0.7, 3.0


def world(
    left: float, shadows: int, retrained: int, rows: int = ROWS, memory: np.ndarray | float = RUN
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return own, retrained, shadow and original margins, and labels.

    Originals are `memory` higher, and the attacked run is `left` times as much higher.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, rows).astype(float)
    base = BETWEEN * rng.normal(size=rows)
    turned = 2 * labels - 1
    attacked = base + left * memory + RUN * rng.normal(size=rows)
    inside = base + memory + RUN * rng.normal(size=(60, rows))
    outside = base + RUN * rng.normal(size=(retrained + shadows, rows))
    split = outside[:retrained] * turned, outside[retrained:] * turned
    return attacked * turned, *split, inside * turned, labels


def test_confidence_is_the_logit_of_the_label() -> None:
    values = confidences(np.array([2.0, 2.0, -1.0]), np.array([1.0, 0.0, 0.0]))
    assert values.tolist() == [2.0, -2.0, 1.0]
    # log(p / (1 - p)) of the label's own probability.
    p = 1 / (1 + math.exp(2.0))
    assert values[1] == pytest.approx(math.log(p / (1 - p)))


def test_roc_by_hand() -> None:
    # Threshold 3: a member; 2: a member and a non-member; 1: a non-member.
    fpr, tpr = roc_curve(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
    assert fpr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert tpr.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert separation(np.array([3.0, 2.0]), np.array([2.0, 1.0])) == pytest.approx(3.5 / 4)
    assert np.trapezoid(tpr, fpr) == pytest.approx(3.5 / 4)


def test_scores_by_hand() -> None:
    # K = 3 Retrain runs, each held out in turn; the references have equal variances in both rows.
    own = np.array([5.0, 0.0])
    retrained = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    originals = np.full((1, 2), 4.0)
    attack = lira(own, retrained, np.empty((0, 2)), originals, np.ones(2))
    # Scores increase with the confidence, because the originals are higher than all references. 5
    # and 0 against 0 twice: AUC (1 + .5) / 2; against 1 twice and 2 twice: .5.
    assert attack.auc == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert attack.tpr_at_1 == pytest.approx(0.5)
    assert attack.references == 2
    # Against originals that are lower than all references the order is reversed.
    reverse = lira(own, retrained, np.empty((0, 2)), -originals, np.ones(2))
    assert reverse.auc == pytest.approx((0.25 + 0.5 + 0.5) / 3)


def test_row_with_the_larger_memory_counts_more() -> None:
    # Means of the references 0, variances 2 and 0, pooled 1, so that they are 1.5 and .5.
    shadows = np.array([[-1.0, 0.0], [1.0, 0.0]])
    originals = np.array([[3.0, 1.0]])
    attack = lira(np.array([1.4, 1.4]), np.array([[1.0, 1.0]]), shadows, originals, np.ones(2))
    # Members 3 · (1.4 - 1.5) / 1.5 = -.2 and 1 · (1.4 - .5) / .5 = 1.8; others -1 and 1.
    assert attack.auc == pytest.approx(0.75)


def test_original_of_the_seed_of_a_held_out_run_is_not_used() -> None:
    generator = np.random.default_rng(0)
    own, retrained = generator.normal(size=30), generator.normal(size=(3, 30))
    originals, none = generator.normal(size=(2, 30)), np.empty((0, 30))
    usable = np.array([[False, True], [True, False], [False, False]])
    attack = lira(own, retrained, none, originals, np.ones(30), usable)
    only = [np.array([[True], [False], [False]]), np.array([[False], [True], [False]])]
    parts = [
        lira(own, retrained, none, originals[[index]], np.ones(30), mask).auc
        for index, mask in ((1, only[0]), (0, only[1]))
    ]
    assert attack.auc == pytest.approx(np.mean(parts))
    with pytest.raises(TooFewModelsError):
        lira(own, retrained, none, originals, np.ones(30), np.zeros((3, 2), bool))


def test_two_gaussians_of_known_distance() -> None:
    """With many models and one memory for all rows, the best AUC is Φ(d / √2)."""
    own, retrained, shadows, originals, labels = world(1, shadows=60, retrained=4, rows=5000)
    attack = lira(own, retrained, shadows, originals, labels)
    assert attack.auc == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.02)
    assert attack.advantage == pytest.approx(attack.auc - 0.5)
    assert attack.references == 63
    assert attack.tpr_at_5 == pytest.approx(norm.cdf(norm.ppf(0.05) + 1), abs=0.03)
    # Uncalibrated, the memory is small against the differences between rows.
    uncalibrated = norm.cdf(RUN / math.sqrt(2 * (RUN**2 + BETWEEN**2)))
    assert loss_auc(own, retrained, labels) == pytest.approx(uncalibrated, abs=0.02)


def test_overshoot_has_an_auc_below_one_half_and_an_advantage() -> None:
    attack = lira(*world(-1, shadows=16, retrained=4))
    assert attack.auc < 0.3
    assert attack.advantage > 0.2


def test_memory_in_opposite_directions_is_detected() -> None:
    """Training on a row may also lower the confidence in it; the originals tell."""
    memory = RUN * np.where(np.arange(ROWS) % 2, 2.0, -2.0)
    assert lira(*world(1, shadows=8, retrained=4, memory=memory)).auc > 0.8


def test_shrinking_all_margins_is_not_taken_for_membership() -> None:
    memory = RUN * np.where(np.arange(ROWS) % 2, 1.0, -1.0)
    own, *others = world(0, shadows=16, retrained=4, memory=memory)
    assert lira(0.8 * own, *others).auc == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shadows", [0, 16])
def test_retrain_against_retrain_has_auc_one_half(shadows: int) -> None:
    attack = lira(*world(0, shadows=shadows, retrained=4))
    assert attack.auc == pytest.approx(0.5, abs=0.01)
    assert attack.tpr_at_1 == pytest.approx(0.01, abs=0.004)


def test_attacks_of_all_retrain_runs_have_mean_one_half() -> None:
    """Each run is attacked with every other run held out, so the areas cancel exactly."""
    _, retrained, shadows, originals, labels = world(0, shadows=4, retrained=5, rows=300)
    areas = [
        lira(retrained[run], np.delete(retrained, run, 0), shadows, originals, labels).auc
        for run in range(5)
    ]
    assert np.mean(areas) == pytest.approx(0.5)
    assert np.std(areas) > 0


def test_the_roc_curve_is_monotonic_with_at_most_100_points() -> None:
    attack = lira(*world(1, shadows=2, retrained=4))
    curve = attack.roc()
    assert len(curve["fpr"]) == len(curve["tpr"]) <= 100
    assert curve["fpr"][0] == 0.0
    assert (curve["fpr"][-1], curve["tpr"][-1]) == (1.0, 1.0)
    assert np.all(np.diff(curve["fpr"]) > 0)
    assert np.all(np.diff(curve["tpr"]) >= 0)
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(attack.auc, abs=0.005)
    assert np.interp(0.05, curve["fpr"], curve["tpr"]) == pytest.approx(attack.tpr_at_5, abs=0.01)


def test_identical_runs_have_auc_one_half() -> None:
    attack = lira(np.ones(5), np.ones((4, 5)), np.ones((2, 5)), np.ones((1, 5)), np.ones(5))
    assert attack.auc == 0.5


@pytest.mark.parametrize(
    ("retrained", "shadows", "originals"), [(0, 5, 1), (1, 1, 1), (2, 0, 1), (4, 4, 0)]
)
def test_too_few_models_raise_an_error(retrained: int, shadows: int, originals: int) -> None:
    models = [np.ones((count, 5)) for count in (retrained, shadows, originals)]
    with pytest.raises(TooFewModelsError, match="Add seeds"):
        lira(np.ones(5), *models, np.ones(5))


def test_an_original_is_detected_on_planted_data() -> None:
    """Ridge models on random features, which differ by run, memorize part of their data."""
    rng = np.random.default_rng(0)
    forget, rows = 300, 600
    inputs = rng.normal(size=(rows, 10))
    labels = (inputs[:, 0] + rng.logistic(size=rows) > 0).astype(float)

    def answers(seed: int, first: int) -> np.ndarray:
        lift = np.random.default_rng(seed).normal(size=(10, 150))
        features = np.maximum(inputs @ lift, 0)
        seen = features[first:]
        normal = seen.T @ seen + 30 * np.eye(150)
        weights = np.linalg.solve(normal, seen.T @ (2 * labels[first:] - 1))
        return features[:forget] @ weights

    retrained = np.stack([answers(seed, forget) for seed in range(4)])
    shadows = np.stack([answers(seed, forget) for seed in range(20, 36)])
    originals = np.stack([answers(seed, 0) for seed in (11, 12)])
    known = labels[:forget]
    attack = lira(answers(10, 0), retrained, shadows, originals, known)
    references = [
        lira(retrained[n], np.delete(retrained, n, 0), shadows, originals, known).auc
        for n in range(4)
    ]
    assert attack.auc > 0.6
    assert attack.tpr_at_1 > 0.05
    assert np.mean(references) == pytest.approx(0.5, abs=0.05)
