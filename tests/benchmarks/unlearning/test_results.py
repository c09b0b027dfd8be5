"""Comparison of runs, with values computed by hand on few rows."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.unlearning.results import (
    Margins,
    TooFewRetrainedError,
    compare,
    noise_floor,
    summary,
)
from models.audit.prediction import prediction_interval
from models.data.samples import Samples


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_noise_floor_equals_the_hand_computed_value() -> None:
    # The JSD of two coins p and q is H((p+q)/2) − (H(p)+H(q))/2; only the last run differs.
    same, other = np.array([0.0]), np.array([logit(0.9)])
    floor = noise_floor([same, same, same, other], [0.5, 0.6, 0.7, 0.4])

    def entropy(p: float) -> float:
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))

    distance = entropy(0.7) - (entropy(0.5) + entropy(0.9)) / 2
    assert floor["jsd"] == pytest.approx(distance / 2)
    # Means to the other runs: a third of the distance three times, and the whole distance.
    assert floor["jsd_interval"] == pytest.approx(
        [0, prediction_interval([distance / 3] * 3 + [distance])[1]]
    )
    assert floor["forget_loss_interval"] == pytest.approx(prediction_interval([0.5, 0.6, 0.7, 0.4]))
    # Wider than the range, which four runs leave 40 % of the time.
    assert floor["forget_loss_interval"][0] < 0.4
    assert floor["intervals"] == "95 % prediction"


def test_noise_floor_of_three_runs_is_refused() -> None:
    with pytest.raises(TooFewRetrainedError, match="four Retrain runs"):
        noise_floor([np.zeros(1)] * 3, [0.1] * 3)


def four_rows() -> Samples:
    return Samples(
        user=np.array([0, 0, 1, 1], np.int32),
        candidate=np.arange(4, dtype=np.int32),
        label=np.array([1, 0, 1, 0], np.float32),
        timestamp=np.arange(4),
        history=np.full((4, 10), -1, np.int32),
        history_rating=np.zeros((4, 10), np.int64),
        earlier=np.zeros(4, np.int32),
    )


def test_runs_are_compared_with_all_other_retrain_runs() -> None:
    runs = [
        {"method": method, "seed": seed, "forget_loss": 0.5, "test_auc": 0.8}
        for method, seed in [*(("retrain", seed) for seed in range(4)), ("original", 0)]
    ]
    own = [Margins(forget=np.full(4, value)) for value in (0.0, 0.0, 0.0, 2.0, 2.0)]
    comparison = compare(runs, own, four_rows())
    distance = {(run["method"], run["seed"]): run["jsd"] for run in comparison["runs"]}
    # Three of the four Retrain runs differ from Original by the same JSD; one is equal to it.
    jsd = distance["retrain", 3]
    assert distance["original", 0] == pytest.approx(0.75 * jsd)
    assert distance["retrain", 0] == pytest.approx(jsd / 3)
    assert comparison["summary"]["retrain"]["jsd"]["mean"] == pytest.approx(jsd / 2)
    assert len(comparison["runs"][4]["per_user"]["jsd"]) == 2


def test_summary_has_mean_and_standard_deviation() -> None:
    runs = [
        {"method": "a", "seed": 0, "x": 1.0, "flag": True, "none": None, "name": "n"},
        {"method": "a", "seed": 1, "x": 3.0, "flag": True, "none": None, "name": "n"},
        {"method": "b", "seed": 0, "x": 7.0},
    ]
    assert summary(runs) == {
        "a": {"x": {"mean": 2.0, "std": pytest.approx(2**0.5)}},
        "b": {"x": {"mean": 7.0, "std": 0.0}},
    }


def five_runs() -> tuple[list[dict[str, object]], list[Margins]]:
    runs = [
        {"method": method, "seed": seed, "forget_loss": 0.5, "test_auc": 0.8}
        for method, seed in [
            *(("retrain", seed) for seed in range(4)),
            ("npo", 0),
            ("original", 5),
        ]
    ]
    generator = np.random.default_rng(0)
    return runs, [Margins(forget=generator.normal(size=4)) for _ in runs]


def test_shadows_change_only_the_attack() -> None:
    runs, margins = five_runs()
    without = compare(runs, margins, four_rows())
    shadows = [Margins(forget=np.random.default_rng(seed).normal(size=4)) for seed in (1, 2)]
    comparison = compare(runs, margins, four_rows(), shadows)
    assert comparison["noise_floor"] == without["noise_floor"]
    assert [run["jsd"] for run in comparison["runs"]] == [run["jsd"] for run in without["runs"]]
    assert comparison["control"] == without["control"]
    assert comparison["runs"][4]["mia_references"] == without["runs"][4]["mia_references"] + 2


def test_batch_distances_cover_the_rows_forgotten_so_far() -> None:
    runs, margins = five_runs()
    runs[4]["batches"] = [{"rows": 2}, {"rows": 4}]
    last = margins[4].forget
    first = np.array([margins[0].forget[0], margins[0].forget[1], np.nan, np.nan])
    margins = [
        *(Margins(forget=margins[0].forget) for _ in range(4)),
        Margins(forget=last, steps=np.stack([first, last])),
        margins[5],
    ]
    comparison = compare(runs, margins, four_rows())["runs"][4]
    assert [batch["rows"] for batch in comparison["batches"]] == [2, 4]
    assert comparison["batches"][0]["jsd"] == pytest.approx(0)
    assert comparison["batches"][1]["jsd"] == pytest.approx(comparison["jsd"])


def test_seed_without_the_number_is_left_out() -> None:
    runs = [{"method": "a", "seed": 0, "x": None}, {"method": "a", "seed": 1, "x": 3.0}]
    assert summary(runs) == {"a": {"x": {"mean": 3.0, "std": 0.0}}}
    assert summary([{"method": "a", "seed": 0, "x": float("nan")}]) == {"a": {}}
