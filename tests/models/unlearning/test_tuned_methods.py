"""What distinguishes the methods that tune all weights: rows, labels, rates and stopping."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from models.audit.calibration import ExpectedLossIncrease
from models.training.trainer import row_losses, row_margins
from models.unlearning.badt import BadTeacher, BadTeacherConfig
from models.unlearning.finetune import FineTune, FineTuneConfig
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from models.unlearning.neggrad_calibrated import CalibratedNegGrad, CalibratedNegGradConfig
from models.unlearning.scrub import Scrub, ScrubConfig
from tests.models.conftest import World, nothing

if TYPE_CHECKING:
    from models.unlearning.base import Unlearned

pytestmark = pytest.mark.slow

LOOP = LoopConfig(rate_share=0.5, batch_size=64, steps=20)


def equal_weights(first: Unlearned, second: Unlearned) -> bool:
    weights = first.recommender.model.state_dict(), second.recommender.model.state_dict()
    return all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("loop", "rows", "steps"),
    [
        (LoopConfig(steps=7), 1000, 7),
        (LoopConfig(batch_size=32, epochs=10.0), 100, 32),
        (LoopConfig(batch_size=32, epochs=0.25), 1000, 8),
        (LoopConfig(batch_size=32, epochs=0.25), 3, 1),
    ],
)
def test_passes_over_the_forget_rows_give_the_number_of_steps(
    loop: LoopConfig, rows: int, steps: int
) -> None:
    assert loop.count(rows) == steps


def test_the_rate_is_a_share_of_the_recipes(world: World) -> None:
    task = world.task()
    doubled = replace(task.recipe, learning_rate=2 * task.recipe.learning_rate)
    config = NegGradConfig(loop=LOOP)
    halved = NegGradConfig(loop=replace(LOOP, rate_share=LOOP.rate_share / 2))
    first = NegGrad(config).unlearn(task, nothing)
    second = NegGrad(halved).unlearn(replace(task, recipe=doubled), nothing)
    assert equal_weights(first, second)


def test_bad_t_teaches_the_opposite_answers(world: World) -> None:
    config = BadTeacherConfig(loop=replace(LOOP, steps=60), forget_weight=10.0)
    unlearned = BadTeacher(config).unlearn(world.task(), nothing)
    margins = row_margins(unlearned.recommender, world.batch.forget, world.data)
    correct = (margins > 0) == (world.batch.forget.label > 0)
    assert correct.mean() < 0.2  # Random labels would give one half.


def test_fine_tuning_does_not_use_the_forget_rows(world: World) -> None:
    task, method = world.task(), FineTune(FineTuneConfig(loop=LOOP))
    forget = task.prepared.forget
    flipped = replace(forget, label=1 - forget.label)
    other = replace(task, prepared=replace(task.prepared, forget=flipped))
    assert equal_weights(method.unlearn(task, nothing), method.unlearn(other, nothing))


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_calibrated_neggrad_stops_at_the_expected_loss_increase(
    world: World, factor: float
) -> None:
    expected = {
        kind: replace(increase, mean=factor * increase.mean)
        for kind, increase in world.expected.items()
    }
    config = CalibratedNegGradConfig(
        loop=replace(LOOP, rate_share=0.05, steps=500), forget_weight=1.0, check_every=1
    )
    unlearned = CalibratedNegGrad(config).unlearn(replace(world.task(), expected=expected), nothing)
    metrics = unlearned.metrics
    assert metrics["steps"] < 500
    target = factor * world.expected["user"].mean
    assert metrics["expected_rise"] == pytest.approx(target)
    old = row_losses(world.recommender, world.batch.forget, world.data)
    new = row_losses(unlearned.recommender, world.batch.forget, world.data)
    assert metrics["reached_rise"] == pytest.approx((new - old).mean(), abs=0.1 * target)
    assert target <= metrics["reached_rise"] < 1.5 * target


def test_calibrated_neggrad_never_takes_more_steps_than_its_loop(world: World) -> None:
    unreachable = ExpectedLossIncrease(mean=1e6, error=0.0, spread=0.0, rows=1, units=1)
    config = CalibratedNegGradConfig(loop=replace(LOOP, steps=5))
    task = replace(world.task(), expected={"user": unreachable})
    assert CalibratedNegGrad(config).unlearn(task, nothing).metrics["steps"] == 5


def test_max_phases_of_scrub_move_the_forget_rows_away(world: World) -> None:
    shifts = []
    before = row_margins(world.recommender, world.batch.forget, world.data)
    for max_rounds in (0, 2):
        config = ScrubConfig(rate_share=0.1, rounds=2, max_rounds=max_rounds)
        unlearned = Scrub(config).unlearn(world.task(), nothing)
        after = row_margins(unlearned.recommender, world.batch.forget, world.data)
        shifts.append(((after - before) ** 2).mean())
    assert shifts[1] > 1.5 * shifts[0]
