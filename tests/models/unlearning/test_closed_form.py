"""Item rows in closed form, compared with hand-computed counts and products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.unlearning.closed_form import (
    FirstStep,
    ItemChange,
    removed_samples,
)
from models.unlearning.e2urec_fast import E2URecFast, E2URecFastConfig
from tests.models.conftest import World, nothing
from tests.support.planted_tastes import HOLDOUT, RECIPE, planted

DATA = planted()
WHOLE = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT)
VOCABULARY = Vocabulary.from_catalog(DATA)
#: A (user, item) rating in the middle of a history: in eleven samples, as candidate of only one.
PAIR = (3, int(DATA.item[DATA.user == 3][12]))
WITHOUT_PAIR = split_for_forgetting(
    DATA, ForgetIndices(pairs=frozenset([PAIR])), HOLDOUT, WHOLE.bounds
)


def test_a_sample_with_a_shortened_history_is_not_removed() -> None:
    removed = removed_samples(WITHOUT_PAIR)
    assert len(WITHOUT_PAIR.forget) == 11
    assert (removed.user.tolist(), removed.candidate.tolist()) == ([PAIR[0]], [PAIR[1]])


def test_an_item_outside_the_vocabulary_has_no_row_to_change() -> None:
    change = ItemChange.from_split(WITHOUT_PAIR, item_capacity=PAIR[1], damping=5.0)
    assert not len(change.item_indices)
    small = replace(VOCABULARY, item_capacity=PAIR[1])
    step = FirstStep.from_split(build(small, RECIPE.backbone), WITHOUT_PAIR, damping=5.0)
    assert not len(step.rows(5.0).tokens)


def test_kept_is_the_share_of_an_items_samples_that_remain() -> None:
    change = ItemChange.from_split(WITHOUT_PAIR, VOCABULARY.item_capacity, damping=5.0)
    count = int((WHOLE.parts.train.candidate == PAIR[1]).sum())
    assert change.item_indices.tolist() == [PAIR[1]]
    assert np.allclose(change.kept, (count - 1) / count)


def test_only_rows_of_items_move_in_closed_form(world: World) -> None:
    """A factor on all margins would describe one data set (decision 0022)."""
    task = replace(world.task(), prepared=WITHOUT_PAIR)
    unlearned = E2URecFast(E2URecFastConfig(steps=1)).unlearn(task, nothing)
    assert unlearned.rows is not None
    assert unlearned.rows.tokens.tolist() == [VOCABULARY.first_item + PAIR[1]]
