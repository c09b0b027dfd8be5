"""The unlearning benchmark: who is forgotten, what runs say together, and going on after a stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.unlearning.protocols import PROTOCOLS, ProtocolError, apply
from benchmarks.unlearning.results import compare, noise_floor, summary
from models.samples import Samples
from models.splits import TooSmallToSplitError
from tests.unit.models.planted import planted_interactions, table

if TYPE_CHECKING:
    from models.preparation import Prepared


def forgotten(prepared: Prepared) -> set[int]:
    return set(prepared.forget.user.tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_is_forgotten_is_in_no_retained_part(protocol: str) -> None:
    whole, batch = apply(planted_interactions(), protocol, 0)
    gone = forgotten(batch)
    parts = batch.parts
    for part in (parts.train, parts.valid, parts.test):
        assert not gone & set(part.user.tolist())
    assert gone <= set(whole.parts.train.user.tolist())
    assert batch.bounds == whole.bounds


@pytest.mark.parametrize(("protocol", "share"), [("paper", 0.2), ("one-percent", 0.01)])
def test_a_share_of_the_training_users_is_forgotten(protocol: str, share: float) -> None:
    whole, batch = apply(planted_interactions(), protocol, 0)
    users = len(np.unique(whole.parts.train.user))
    assert len(forgotten(batch)) == max(1, round(users * share))
    assert len(whole.parts.train) == len(batch.parts.train) + len(batch.forget)


def test_the_single_user_has_a_middling_number_of_rows() -> None:
    whole, batch = apply(planted_interactions(), "single-user", 0)
    assert len(forgotten(batch)) == 1
    rows = np.unique(whole.parts.train.user, return_counts=True)[1]
    assert np.quantile(rows, 0.35) <= len(batch.forget) <= np.quantile(rows, 0.65)


def test_the_same_seed_forgets_the_same_people() -> None:
    data = planted_interactions()
    first, again, other = (forgotten(apply(data, "paper", seed)[1]) for seed in (3, 3, 4))
    assert first == again != other


def test_an_unknown_protocol_names_those_there_are() -> None:
    with pytest.raises(ProtocolError, match=r"no protocol 'papier'; there are: .*paper"):
        apply(planted_interactions(), "papier", 0)


def test_nobody_left_is_refused() -> None:
    one_user = table([(0, n, 1 + n % 5, n) for n in range(400)], users=1, items=400)
    with pytest.raises(ProtocolError, match="would forget everybody"):
        apply(one_user, "paper", 0)


def test_too_little_data_is_refused() -> None:
    with pytest.raises(TooSmallToSplitError):
        apply(table([(0, 0, 4, 1)], users=1, items=1), "paper", 0)


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
    with pytest.raises(ValueError, match="4 Retrain runs"):
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
    own = [np.full(4, value) for value in (0.0, 0.0, 0.0, 2.0, 2.0)]
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
