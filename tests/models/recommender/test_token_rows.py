"""Item rows and answers in closed form, against counts and products that are known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from models.checkpoints.adapter import with_rows
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.recommender.token_rows import (
    FirstStep,
    ItemChange,
    leaving,
    reset_rows,
    shrunk_answers,
    unused_tokens,
)
from models.training.trainer import margins
from models.unlearning.e2urec_fast import E2URecFast, E2URecFastConfig
from tests.models.conftest import World, nothing
from tests.support.planted_tastes import HOLDOUT, RECIPE, planted

DATA = planted()
WHOLE = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT)
VOCABULARY = Vocabulary.from_catalog(DATA)
#: One rating from the middle of a person's history: eleven samples know it, one of them goes.
PAIR = (3, int(DATA.item[DATA.user == 3][12]))
PAIR_ALONE = split_for_forgetting(
    DATA, ForgetIndices(pairs=frozenset([PAIR])), HOLDOUT, WHOLE.bounds
)

RATER = int(DATA.user[(DATA.item == 5) & (DATA.timestamp < WHOLE.bounds.valid_from)][0])


def test_a_sample_with_only_its_history_shortened_does_not_leave() -> None:
    gone = leaving(PAIR_ALONE)
    assert len(PAIR_ALONE.forget) == 11
    assert (gone.user.tolist(), gone.candidate.tolist()) == ([PAIR[0]], [PAIR[1]])


def test_items_outside_the_vocabulary_have_no_row_to_move() -> None:
    change = ItemChange.of(PAIR_ALONE, item_indices=PAIR[1], damping=5.0)
    assert not len(change.item_indices)
    small = replace(VOCABULARY, item_indices=PAIR[1])
    step = FirstStep.of(build(small, RECIPE.backbone), PAIR_ALONE, damping=5.0)
    assert not len(step.rows(5.0).tokens)


def test_an_item_keeps_the_share_of_its_samples_that_stay() -> None:
    change = ItemChange.of(PAIR_ALONE, VOCABULARY.item_capacity, damping=5.0)
    count = int((WHOLE.parts.train.candidate == PAIR[1]).sum())
    assert change.item_indices.tolist() == [PAIR[1]]
    assert np.allclose(change.kept, (count - 1) / count)


def test_temperature_shrinkage_twice_multiplies_every_margin_by_both_factors() -> None:
    recommender = build(VOCABULARY, RECIPE.backbone)
    prompts = recommender.prompt.samples(WHOLE.parts.test.take(np.arange(20)), DATA)
    before = margins(recommender, prompts)
    once = with_rows(recommender, shrunk_answers(recommender, 0.9))
    twice = with_rows(once, shrunk_answers(once, 0.8))
    torch.testing.assert_close(margins(once, prompts), 0.9 * before)
    torch.testing.assert_close(margins(twice, prompts), 0.72 * before)


def test_answers_cool_by_the_share_of_rows_that_leave_not_of_those_that_change(
    world: World,
) -> None:
    task = replace(world.task(), prepared=PAIR_ALONE)
    made = E2URecFast(E2URecFastConfig(steps=1)).unlearn(task, nothing)
    assert made.rows is not None
    found = made.rows.values[-2] - made.rows.values[-1]
    now = shrunk_answers(world.recommender, 1.0).values
    factor = (found @ (now[0] - now[1]) / (now[0] - now[1]).square().sum()).item()
    share = 1 / len(WHOLE.parts.train)
    np.testing.assert_allclose(1 - factor, 0.4 * share, rtol=0.05)


def test_rows_of_what_only_the_forgotten_had_become_initial_attributes_among_them() -> None:
    """Item 5 has an author of its own; person 3 is the only one who rated it."""
    items = list(DATA.items)
    items[5] = replace(items[5], attributes={"author": ("Le Guin",)})
    data = replace(DATA, items=tuple(items)).take((DATA.item != 5) | (DATA.user == RATER))
    vocabulary = Vocabulary.from_catalog(data)
    batch = split_for_forgetting(
        data, ForgetIndices(users=frozenset([RATER])), HOLDOUT, WHOLE.bounds
    )
    recommender = build(vocabulary, RECIPE.backbone)
    tokens = unused_tokens(recommender, batch)
    lost = [vocabulary.attribute("author", "Le Guin"), vocabulary.item(5)]
    assert set(tokens) == {*lost, *range(vocabulary.item(len(items) - 1) + 1, vocabulary.size)}
    whole = split_for_forgetting(data, ForgetIndices(), HOLDOUT, WHOLE.bounds)
    assert not set(lost) & set(unused_tokens(recommender, whole))
    (table,) = recommender.item_tables()
    initial = table.detach().clone()
    table.data.add_(1.0)
    reset_rows(recommender, tokens)
    moved = (table - initial).abs().amax(dim=1) > 0
    assert not moved[tokens].any()
    assert int(moved.sum()) == vocabulary.size - len(tokens)
