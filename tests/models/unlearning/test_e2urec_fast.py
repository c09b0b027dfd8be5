"""The default method: how far it moves answers, and what it does without a calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.audit.memorization import Memorization, forgetting_change
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.recommender.token_rows import with_rows
from models.training.trainer import row_margins
from models.unlearning import fast_student
from models.unlearning.e2urec_fast import E2URecFast, E2URecFastConfig
from models.unlearning.fast_student import Settling, Teachers
from tests.models.conftest import World, nothing
from tests.support.planted_tastes import FORGOTTEN, HOLDOUT

#: A model that memorized people's taste at a time, which a student of few steps can learn.
_HISTORY = {
    "user": Memorization(own=0.0, history=1.0, error=0.1, gain=0.2, gain_error=0.01, people=20.0)
}


@pytest.mark.parametrize("person", sorted(FORGOTTEN)[:3])
def test_a_person_moves_as_far_as_the_forgetting_teacher(world: World, person: int) -> None:
    """The taught change is exaggerated, and settling takes the exaggeration back."""
    alone = split_for_forgetting(
        world.data, ForgetIndices(users=frozenset({person})), HOLDOUT, world.whole.bounds
    )
    task = replace(world.task(), prepared=alone, memorization=_HISTORY)
    before = row_margins(world.recommender, alone.forget, alone.retained)
    change = forgetting_change(alone, before, _HISTORY)

    unlearned = E2URecFast(E2URecFastConfig(learning_rate=0.01)).unlearn(task, nothing)

    assert unlearned.rows is not None
    base = with_rows(world.recommender, unlearned.rows)
    moved = row_margins(unlearned.recommender, alone.forget, alone.retained)
    moved -= row_margins(base, alone.forget, alone.retained)
    assert 0.9 < moved @ change / (change @ change) < 1.1


def test_few_rows_are_shown_more_often_than_many() -> None:
    """A person has tens of rows: one pass over them would be two steps, which teach nothing."""
    config = E2URecFastConfig()
    passes = [
        config.steps_for(rows) * config.forget_batch / rows for rows in (1, 17, 61, 455, 8000)
    ]
    assert passes == sorted(passes, reverse=True)
    assert config.steps_for(17) >= 10
    assert config.steps_for(10**9) == config.steps
    assert config.stronger().steps_for(455) == pytest.approx(2 * config.steps_for(455), abs=1)


def test_a_student_that_learned_noise_is_not_clearly_farther_from_the_teacher(
    world: World,
) -> None:
    """A too high rate moves answers far, and hardly in the direction of the teacher."""
    task = world.task()
    before = row_margins(world.recommender, world.batch.forget, world.batch.retained)
    change = forgetting_change(world.batch, before, task.memorization)

    unlearned = E2URecFast(E2URecFastConfig(learning_rate=0.02)).unlearn(task, nothing)

    assert unlearned.rows is not None
    base = with_rows(world.recommender, unlearned.rows)
    moved = row_margins(unlearned.recommender, world.batch.forget, world.batch.retained)
    moved -= row_margins(base, world.batch.forget, world.batch.retained)
    assert np.square(moved - change).mean() < 1.3 * np.square(change).mean()


def test_without_memorization_only_item_rows_return(world: World) -> None:
    """A release whose shadow failed has no teacher; the method must not invent a distance."""
    unlearned = E2URecFast().unlearn(replace(world.task(), memorization={}), nothing)

    assert unlearned.rows is not None
    base = with_rows(world.recommender, unlearned.rows)
    answers = row_margins(unlearned.recommender, world.batch.forget, world.batch.retained)
    assert np.allclose(answers, row_margins(base, world.batch.forget, world.batch.retained))
    assert unlearned.metrics["scale"] == 0.0


def test_a_student_that_moved_the_other_way_is_taken_back(world: World) -> None:
    """With a negative overshoot factor the student learns the opposite of the taught change."""
    config = E2URecFastConfig(overshoot_factor=-4.0)

    unlearned = E2URecFast(config).unlearn(world.task(), nothing)

    assert unlearned.metrics["taught_size"] < 0
    assert unlearned.metrics["scale"] == 0.0


def test_a_person_with_one_row_hardly_moves(world: World) -> None:
    """One sample is a tenth of a history's weight, so that it cannot swing a model."""
    one = replace(
        world.batch,
        forget=world.batch.forget.take(np.array([0])),
        forget_kind=world.batch.forget_kind[:1],
    )
    task = replace(world.task(), prepared=one, memorization=_HISTORY)
    margins = row_margins(world.recommender, one.forget, one.retained)

    change = forgetting_change(one, margins, _HISTORY)
    unlearned = E2URecFast().unlearn(task, nothing)

    assert abs(change[0]) <= 0.1
    assert all(torch.isfinite(p).all() for p in unlearned.recommender.model.parameters())


@pytest.mark.parametrize(("change", "moved"), [(1e-25, 0.1), (1.0, 1e-25)])
def test_changes_whose_squares_vanish_are_scaled_to_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, change: float, moved: float
) -> None:
    """The square of a number below 1e-23 is 0 in single precision."""
    teachers = Teachers(world.task())
    teachers.change = torch.full_like(teachers.change, change)
    config = E2URecFastConfig(evaluation_rows=1)
    monkeypatch.setattr(fast_student, "margins", lambda *_: torch.tensor([moved]))
    monkeypatch.setattr(teachers, "remembering", lambda rows: torch.zeros(len(rows)))
    reach = Settling(teachers, config).measure(world.recommender)
    assert (reach.factor, reach.enough) == (0.0, False)
