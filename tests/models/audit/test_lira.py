"""Test calibrated membership inference by hand and on Gaussians of known distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from models.audit.lira import (
    TooFewRetrainedError,
    confidences,
    lira,
    loss_attack,
    roc_curve,
    separation,
)

ROWS = 20_000
#: Standard deviations of a row between runs, and of the rows' means.
RUN, BETWEEN = 0.7, 3.0


def world(
    shift: np.ndarray | float, same: int, retrained: int, rows: int = ROWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return own, same and retrained margins, and labels; own and same are `shift` higher."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, rows).astype(float)
    base = BETWEEN * rng.normal(size=rows)
    turned = 2 * labels - 1
    inside = base + shift + RUN * rng.normal(size=(same + 1, rows))
    outside = base + RUN * rng.normal(size=(retrained, rows))
    return inside[0] * turned, inside[1:] * turned, outside * turned, labels


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


def test_scores_by_hand_without_other_runs() -> None:
    # K = 3 Retrain runs, each held out in turn.
    own = np.array([5.0, 0.0])
    retrained = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    attack = lira(own, np.empty((0, 2)), retrained, np.ones(2))
    # Held out 0: the others are at 1.5 ± √.5; |5 − 1.5| and |0 − 1.5| against 1.5 twice: the
    # first row always has the higher score, the second ties. AUC 3/4.
    # Held out 1: at 1 ± √2; 4 and 1 against 0 twice: AUC 1. Held out 2: at .5; 4.5, .5
    # against 1.5 twice: AUC 1/2.
    assert attack.auc == pytest.approx((0.75 + 1.0 + 0.5) / 3)
    assert attack.advantage == pytest.approx(0.25)
    assert attack.tpr_at_1 == pytest.approx((0.5 + 1.0 + 0.5) / 3)


def test_two_gaussians_of_known_distance() -> None:
    """With the same shift for all rows, the best attack's AUC is Φ(d / √2)."""
    distance = 1.0
    # With few runs, the errors of the rows' means lower the AUC: eight runs gave .735.
    own, same, retrained, labels = world(distance * RUN, same=60, retrained=61, rows=3000)
    attack = lira(own, same, retrained, labels)
    expected = norm.cdf(distance / math.sqrt(2))
    assert attack.auc == pytest.approx(expected, abs=0.02)
    assert attack.advantage == pytest.approx(attack.auc - 0.5)
    assert attack.tpr_at_5 == pytest.approx(norm.cdf(norm.ppf(0.05) + distance), abs=0.02)
    # Uncalibrated, the shift is small against the differences between rows.
    loss = loss_attack(own, retrained, labels)
    uncalibrated = norm.cdf(distance * RUN / math.sqrt(2 * (RUN**2 + BETWEEN**2)))
    assert loss["auc"] == pytest.approx(uncalibrated, abs=0.02)
    assert loss["interval"][0] < loss["auc"] < loss["interval"][1]


def test_without_other_runs_a_shift_in_either_direction_is_detected() -> None:
    areas = {}
    for shift in (2.0, -2.0):
        own, _, retrained, labels = world(shift * RUN, same=0, retrained=9)
        areas[shift] = lira(own, np.empty((0, ROWS)), retrained, labels).auc
    assert areas[2.0] > 0.7
    assert areas[-2.0] == pytest.approx(areas[2.0], abs=0.02)


def test_opposite_shifts_are_detected_with_a_mean_per_row() -> None:
    """Half of the rows shift up and half down, which only a mean per row can detect."""
    shift = RUN * np.where(np.arange(ROWS) % 2, 2.0, -2.0)
    own, same, retrained, labels = world(shift, same=8, retrained=9)
    assert lira(own, same, retrained, labels).auc > 0.85


@pytest.mark.parametrize("same", [0, 2])
def test_retrain_against_retrain_has_auc_one_half(same: int) -> None:
    own, others, retrained, labels = world(0.0, same=same, retrained=4)
    attack = lira(own, others, retrained, labels)
    assert attack.auc == pytest.approx(0.5, abs=0.01)
    assert attack.tpr_at_1 == pytest.approx(0.01, abs=0.004)


def test_many_runs_use_a_variance_per_row() -> None:
    """A small shift is certain on rows with a small variance of their own."""
    rng = np.random.default_rng(0)
    rows = 400
    spread = np.where(np.arange(rows) % 2, 0.01, 10.0)
    inside = 0.1 + spread * rng.normal(size=(65, rows))
    outside = spread * rng.normal(size=(66, rows))
    few = lira(inside[0], inside[1:20], outside[:20], np.ones(rows))
    many = lira(inside[0], inside[1:], outside, np.ones(rows))
    assert many.auc > few.auc + 0.1


def test_the_roc_curve_is_monotonic_with_at_most_100_points() -> None:
    own, same, retrained, labels = world(RUN, same=2, retrained=4)
    attack = lira(own, same, retrained, labels)
    curve = attack.roc()
    assert len(curve["fpr"]) == len(curve["tpr"]) <= 100
    assert curve["fpr"][0] == 0.0
    assert (curve["fpr"][-1], curve["tpr"][-1]) == (1.0, 1.0)
    assert np.all(np.diff(curve["fpr"]) > 0)
    assert np.all(np.diff(curve["tpr"]) >= 0)
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(attack.auc, abs=0.005)
    assert np.interp(0.05, curve["fpr"], curve["tpr"]) == pytest.approx(attack.tpr_at_5, abs=0.01)


def test_identical_runs_have_auc_one_half() -> None:
    attack = lira(np.ones(5), np.ones((2, 5)), np.ones((4, 5)), np.ones(5))
    assert attack.auc == 0.5


def test_too_few_retrained_runs_raise_an_error() -> None:
    with pytest.raises(TooFewRetrainedError):
        lira(np.ones(5), np.ones((1, 5)), np.ones((2, 5)), np.ones(5))


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
    originals = np.stack([answers(seed, 0) for seed in range(10, 13)])
    known = labels[:forget]
    attack = lira(originals[0], originals[1:], retrained, known)
    references = [
        lira(retrained[n], np.empty((0, forget)), np.delete(retrained, n, 0), known).auc
        for n in range(4)
    ]
    assert attack.auc > 0.6
    assert np.mean(references) == pytest.approx(0.5, abs=0.05)
