"""What several runs say together: by hand on few rows."""

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
from models.data.samples import Samples


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_noise_floor_by_hand() -> None:
    # JSD of two coins p and q is H((p+q)/2) − (H(p)+H(q))/2; all four runs agree but the last.
    same, other = np.array([0.0]), np.array([logit(0.9)])
    found = noise_floor([same, same, same, other], [0.5, 0.6, 0.7, 0.4])

    def entropy(p: float) -> float:
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))

    apart = entropy(0.7) - (entropy(0.5) + entropy(0.9)) / 2
    assert found["jsd"] == pytest.approx(apart / 2)
    assert found["jsd_interval"] == pytest.approx([0, apart])
    assert found["forget_loss_interval"] == [0.4, 0.7]


def test_a_floor_over_three_runs_is_refused() -> None:
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


def test_a_method_is_compared_with_every_retrain_run_and_retrain_with_the_others() -> None:
    runs = [
        {"method": method, "seed": seed, "forget_loss": 0.5, "test_auc": 0.8}
        for method, seed in [*(("retrain", seed) for seed in range(4)), ("original", 0)]
    ]
    own = [Margins(forget=np.full(4, value)) for value in (0.0, 0.0, 0.0, 2.0, 2.0)]
    found = compare(runs, own, four_rows())
    distance = {(run["method"], run["seed"]): run["jsd"] for run in found["runs"]}
    # Three of the four Retrain runs are one apart from Original; one is equal to it.
    apart = distance["retrain", 3]
    assert distance["original", 0] == pytest.approx(0.75 * apart)
    assert distance["retrain", 0] == pytest.approx(apart / 3)
    assert found["summary"]["retrain"]["jsd"]["mean"] == pytest.approx(apart / 2)
    assert len(found["runs"][4]["per_user"]["jsd"]) == 2


def test_summary_by_hand() -> None:
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
        for method, seed in [*(("retrain", seed) for seed in range(4)), ("npo", 0)]
    ]
    generator = np.random.default_rng(0)
    return runs, [Margins(forget=generator.normal(size=4)) for _ in runs]


def test_shadows_change_the_attack_and_nothing_else() -> None:
    runs, margins = five_runs()
    without = compare(runs, margins, four_rows())
    shadows = [np.random.default_rng(seed).normal(size=4) for seed in (1, 2)]
    found = compare(runs, margins, four_rows(), shadows)
    assert found["noise_floor"] == without["noise_floor"]
    assert [run["jsd"] for run in found["runs"]] == [run["jsd"] for run in without["runs"]]
    assert found["runs"][4]["roc"] != without["runs"][4]["roc"]


def test_after_each_batch_the_rows_forgotten_by_then_are_compared() -> None:
    runs, margins = five_runs()
    runs[4]["batches"] = [{"rows": 2}, {"rows": 4}]
    last = margins[4].forget
    first = np.array([margins[0].forget[0], margins[0].forget[1], np.nan, np.nan])
    margins = [
        *(Margins(forget=margins[0].forget) for _ in range(4)),
        Margins(forget=last, steps=np.stack([first, last])),
    ]
    found = compare(runs, margins, four_rows())["runs"][4]
    assert [batch["rows"] for batch in found["batches"]] == [2, 4]
    assert found["batches"][0]["jsd"] == pytest.approx(0)
    assert found["batches"][1]["jsd"] == pytest.approx(found["jsd"])


def test_a_seed_without_the_number_is_left_out_of_the_mean() -> None:
    runs = [{"method": "a", "seed": 0, "x": None}, {"method": "a", "seed": 1, "x": 3.0}]
    assert summary(runs) == {"a": {"x": {"mean": 3.0, "std": 0.0}}}
    assert summary([{"method": "a", "seed": 0, "x": float("nan")}]) == {"a": {}}
