"""Judge planted releases beside item means: good, constant, reversed, noisy and broken ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from models.audit.quality import (
    FAILED,
    NOT_JUDGED,
    PASSED,
    compare,
    has_finite_weights,
    judge_quality,
)
from models.data.metrics import auc, auc_placements
from models.data.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender

ITEMS = 40


@dataclass(frozen=True, slots=True)
class Part:
    """The fields of a split's part that the judgment reads."""

    train: Samples
    test: Samples


@dataclass(frozen=True, slots=True)
class Retained:
    items: range = range(ITEMS)


@dataclass(frozen=True, slots=True)
class Split:
    """A planted split: `truth` has the true margin of each test row."""

    parts: Part
    truth: NDArray[np.float64]
    retained: Retained = Retained()

    def judge(self, new: NDArray[np.float64], old: NDArray[np.float64] | None = None) -> Any:
        live = self.truth if old is None else old
        return judge_quality(live, new, cast("ForgetSplit", self))


def rows(
    generator: np.random.Generator, users: int, per_user: int, taste: float
) -> tuple[Samples, NDArray[np.float64]]:
    """Draw ratings whose margin is the item's popularity plus the user's taste for its kind."""
    user = np.repeat(np.arange(users), per_user)
    item = generator.integers(0, ITEMS, len(user))
    kind = np.where((user % 2) == (item % 2), taste, -taste)
    margin = np.linspace(-1.0, 1.0, ITEMS)[item] + kind
    label = (generator.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(np.float32)
    empty = np.zeros((len(user), 1))
    samples = Samples(
        user=user.astype(np.int32),
        candidate=item.astype(np.int32),
        label=label,
        timestamp=np.zeros(len(user), np.int64),
        history=empty.astype(np.int32),
        history_rating=empty.astype(np.int64),
        earlier=np.zeros(len(user), np.int32),
    )
    return samples, margin


def planted(seed: int = 0, users: int = 120, per_user: int = 10, taste: float = 1.0) -> Split:
    generator = np.random.default_rng(seed)
    train, _ = rows(generator, 150, 60, taste)
    test, truth = rows(generator, users, per_user, taste)
    return Split(Part(train, test), truth)


def test_release_that_knows_the_tastes_passes() -> None:
    split = planted()
    quality = split.judge(split.truth)
    assert quality.outcome == PASSED
    assert quality.figures()["advantage"]["auc"]["interval"][0] > 0


@pytest.mark.parametrize("answers", ["constant", "reversed", "random"])
def test_release_worse_than_item_means_fails(answers: str) -> None:
    split = planted()
    generator = np.random.default_rng(1)
    margins = {
        "constant": np.zeros(len(split.truth)),
        "reversed": -split.truth,
        "random": generator.normal(size=len(split.truth)),
    }[answers]
    quality = split.judge(margins)
    assert (quality.outcome, quality.reason) == (FAILED, "worse than item means")
    assert quality.figures()["live"]["auc"] > quality.figures()["item_mean"]["auc"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_fail_on_any_data(value: float) -> None:
    split = planted(users=2, per_user=1)
    new = np.full(len(split.truth), value)
    is_finite = bool(np.isfinite(new).all())
    broken = judge_quality(new, new, cast("ForgetSplit", split), is_finite=is_finite)
    assert broken.outcome == FAILED


def test_too_few_rows_are_not_judged() -> None:
    quality = (few := planted(users=15)).judge(-few.truth)
    assert (quality.outcome, quality.figures()["users"]) == (NOT_JUDGED, 15)


def test_live_release_that_is_no_better_excuses_the_new_one() -> None:
    split = planted()
    constant = np.zeros(len(split.truth))
    quality = split.judge(constant, old=constant)
    assert quality.outcome == NOT_JUDGED
    assert "too weak" in quality.reason
    # Neither does a live release with broken weights.
    assert split.judge(constant, old=constant * np.nan).outcome == NOT_JUDGED


def test_noise_rejects_few_releases_that_are_as_good_as_item_means() -> None:
    """Without tastes, the true margins are the item means: a release cannot be better."""
    failed = 0
    for seed in range(100):
        split = planted(seed, users=40, per_user=5, taste=0.0)
        noise = np.random.default_rng(seed).normal(scale=0.2, size=len(split.truth))
        failed += split.judge(split.truth + noise).outcome == FAILED
    assert failed <= 5


def test_interval_counts_users_and_not_rows() -> None:
    """Twenty copies of each user's rows are no more evidence."""
    split = planted(users=30, per_user=4)
    test = split.parts.test
    labels, zeros = test.label.astype(np.float64), np.zeros(len(test))
    once = compare(labels, split.truth, zeros, test.user)
    copies = [np.tile(column, 20) for column in (labels, split.truth, zeros, test.user)]
    many = compare(*copies)
    assert many.auc.high - many.auc.low == pytest.approx(once.auc.high - once.auc.low)
    width = once.log_loss.high - once.log_loss.low
    assert many.log_loss.high - many.log_loss.low == pytest.approx(width)


def test_placements_average_to_the_auc() -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random(200) < 0.3).astype(np.float64)
    scores = np.round(generator.normal(size=200) + labels, 1)  # With ties.
    placements = auc_placements(labels, scores)
    differences = scores[labels > 0][:, None] - scores[labels == 0][None, :]
    correct = (differences > 0) + 0.5 * (differences == 0)
    assert placements[labels > 0] == pytest.approx(correct.mean(axis=1))
    assert placements[labels == 0] == pytest.approx(correct.mean(axis=0))
    assert auc(labels, scores) == pytest.approx(correct.mean())


def test_weights_that_are_not_finite_are_found_where_no_answer_uses_them() -> None:
    @dataclass
    class Holder:
        model: torch.nn.Module

    model = torch.nn.Embedding(4, 2)
    assert has_finite_weights(cast("Recommender", Holder(model)))
    model.weight.data[3, 1] = float("nan")
    assert not has_finite_weights(cast("Recommender", Holder(model)))
