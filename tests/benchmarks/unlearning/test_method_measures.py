"""Measures over seeds on planted runs: an original that memorized, and an honest method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.unlearning.goals import verdict
from benchmarks.unlearning.results import Margins, compare
from models.data.metrics import log_losses
from models.data.samples import Samples

PEOPLE, EACH, TEST = 40, 25, 3000


def samples(users: np.ndarray, labels: np.ndarray) -> Samples:
    count = len(users)
    return Samples(
        user=users.astype(np.int32),
        candidate=np.zeros(count, np.int32),
        label=labels.astype(np.float32),
        timestamp=np.arange(count),
        history=np.full((count, 10), -1, np.int32),
        history_rating=np.zeros((count, 10), np.int64),
        earlier=np.zeros(count, np.int32),
    )


def planted(
    *,
    memory: float = 0.8,
    left: float = 0.0,
    utility: float = 0.0,
    seeds: int = 8,
    with_shadows: bool = True,
) -> dict[str, Any]:
    """Compare Retrain, Original, which memorizes by `memory`, and a method that keeps `left` of it.

    `utility` is the standard deviation of noise that the method adds to all answers.
    """
    generator = np.random.default_rng(0)
    forget = samples(np.repeat(np.arange(PEOPLE), EACH), generator.integers(0, 2, PEOPLE * EACH))
    test = samples(np.repeat(np.arange(100), TEST // 100), generator.integers(0, 2, TEST))
    base = {"forget": generator.normal(size=PEOPLE * EACH), "test": generator.normal(size=TEST)}
    base["test"] += 2 * test.label - 1
    signs = 2.0 * forget.label - 1
    need = memory * generator.uniform(0.5, 1.5, PEOPLE)[forget.user]

    def answers(part: str, share: float, extra: float = 0.0) -> np.ndarray:
        margins = base[part] + 0.15 * generator.normal(size=len(base[part]))
        margins += extra * generator.normal(size=len(margins))
        return margins + share * need * signs if part == "forget" else margins

    runs, margins = [], []
    for method, share, count in (("retrain", 0, 8), ("original", 1, seeds), ("ours", left, seeds)):
        for seed in range(count):
            extra = utility if method == "ours" else 0.0
            own = Margins(
                forget=answers("forget", share, extra), test=answers("test", share, extra)
            )
            margins.append(own)
            loss = log_losses(forget.label.astype(float), own.forget).mean()
            runs.append(
                {
                    "method": method, "seed": seed, "forget_loss": float(loss),
                    "test_calibration_error": 0.02 + 0.001 * seed + (method == "ours") * utility,
                    "ndcg_at_10": 0.6, "exposure_person": 0.2 + 0.1 * share + 0.001 * seed,
                }
            )  # fmt: skip
    shadows = [Margins(forget=answers("forget", 0), test=answers("test", 0)) for _ in range(16)]
    return compare(runs, margins, forget, shadows, test, shadows_are_retrained=with_shadows)


def test_honest_method_is_as_good_as_retraining() -> None:
    results = planted()
    measures = results["measures"]
    assert results["control"]["has_power"] is True
    assert results["control"]["coverage"] >= 0.9
    assert verdict(results, "ours").text() == "yes"
    assert measures["ours"]["variance_ratio"] == pytest.approx(1, abs=0.1)
    assert measures["ours"]["line"]["slope"] == pytest.approx(1, abs=0.02)
    assert measures["retrain"]["attack"]["auc"] == pytest.approx(0.5, abs=1e-9)
    assert measures["retrain"]["attack"]["references"] == 22
    assert measures["ours"]["attack"]["references"] == 22
    assert measures["ours"]["per_person"]["people"] == PEOPLE
    assert len(measures["ours"]["per_person"]["distance"]) == PEOPLE


def test_retrain_has_every_measure_against_other_retrain_runs() -> None:
    results = planted()
    measures = results["measures"]
    missing = [name for name, value in measures["retrain"].items() if value is None]
    assert missing == [name for name, value in measures["ours"].items() if value is None]
    people, of_original = (measures[name]["per_person"] for name in ("retrain", "original"))
    assert len(people["distance"]) == PEOPLE
    assert people["quantiles"]["0.05"] < 0 < people["quantiles"]["0.95"]
    assert people["quantiles"]["0.95"] < of_original["quantiles"]["0.05"]
    low, high = measures["retrain"]["line"]["slope_interval"]
    assert low - 0.01 < 1 < high + 0.01


def test_original_is_rejected_and_its_distance_is_the_planted_one() -> None:
    results = planted()
    original = results["measures"]["original"]
    expected = np.mean((0.8 * np.linspace(0.5, 1.5, 1000)) ** 2)
    assert original["systematic"]["distance"] == pytest.approx(expected, rel=0.15)
    assert original["systematic"]["low"] > 0
    assert original["attack"]["auc"] > 0.9
    assert original["attack"]["control_auc"] == pytest.approx(0.5, abs=0.02)
    assert "not forgotten" in verdict(results, "original").reason
    assert original["test_logloss_difference"]["mean"] == 0
    assert original["exposure_person_difference"]["mean"] == pytest.approx(0.1)


@pytest.mark.parametrize(("left", "kept"), [(0.5, 0.25), (-0.6, 0.36)])
def test_partial_and_excessive_forgetting_are_rejected(left: float, kept: float) -> None:
    results = planted(left=left)
    own, original = (
        results["measures"][method]["systematic"]["distance"] for method in ("ours", "original")
    )
    assert own / original == pytest.approx(kept, abs=0.05)
    found = verdict(results, "ours")
    assert found.good is False
    assert "distance at least" in found.reason
    assert "attack AUC" in found.reason


def test_noise_that_hides_nothing_shows_in_the_variance_and_the_loss() -> None:
    """Fresh noise in every run has no systematic distance, but costs utility."""
    results = planted(utility=0.45)
    own = results["measures"]["ours"]
    assert own["variance_ratio"] == pytest.approx(1 + (0.45 / 0.15) ** 2, rel=0.1)
    assert own["test_logloss_difference"]["low"] > 0.002
    assert own["test_calibration_error_difference"]["mean"] == pytest.approx(0.45)
    assert "log loss up to" in verdict(results, "ours").reason


def test_original_that_memorized_nothing_gives_no_power() -> None:
    results = planted(memory=0.0)
    assert results["control"]["original_rejected"] is False
    assert results["control"]["has_power"] is False
    assert verdict(results, "ours").good is not True


def test_one_seed_has_no_intervals_and_no_verdict() -> None:
    results = planted(seeds=1)
    own = results["measures"]["ours"]
    assert own["systematic"] is None
    assert own["variance_ratio"] is None
    assert own["test_logloss_difference"] is None
    assert own["attack"] is None
    assert results["measures"]["retrain"]["attack"]["auc"] == pytest.approx(0.5)
    assert results["control"]["has_power"] is None
    assert verdict(results, "ours").good is None


def test_shadow_models_lower_the_noise_of_the_distance() -> None:
    with_shadows, without = planted(), planted(with_shadows=False)
    assert with_shadows["control"]["runs"] == 24
    assert without["control"]["runs"] == 8
    widths = [
        own["high"] - own["low"]
        for own in (
            results["measures"]["ours"]["systematic"] for results in (with_shadows, without)
        )
    ]
    assert widths[0] < 0.8 * widths[1]
    # Everything else is the same, the attack included.
    assert with_shadows["runs"] == without["runs"]
