"""Rows of tokens without retained samples are found and get their initial values back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender
from models.recommender.factory import build
from models.recommender.token_rows import reset_rows, unused_tokens
from tests.support.planted_tastes import HOLDOUT, RECIPE, planted

if TYPE_CHECKING:
    from models.data.forget_split import ForgetSplit

DATA = planted()
WHOLE = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT)
RATER = int(DATA.user[(DATA.item == 5) & (DATA.timestamp < WHOLE.bounds.valid_from)][0])


def initial_table(recommender: Recommender) -> torch.Tensor:
    (table,) = build(recommender.vocabulary, recommender.config).item_tables()
    return table.detach()


def copied(recommender: Recommender) -> Recommender:
    return Recommender(recommender.vocabulary, recommender.config, copy.deepcopy(recommender.model))


def test_tokens_that_only_the_forgotten_user_had_are_unused_and_reset() -> None:
    """Item 5 has an author of its own, and the forgotten user is the only one who rated it."""
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


def test_training_leaves_rows_of_unrated_items_at_their_initial_values(
    trained: Recommender, prepared: ForgetSplit
) -> None:
    first = trained.vocabulary.first_item
    (table,) = trained.item_tables()
    rows, initial = table.detach()[first:], initial_table(trained)[first:]
    unrated = [
        *prepared.unused_item_indices().tolist(),
        *range(150, trained.vocabulary.item_capacity),
    ]
    assert set(range(140, 150)) <= set(unrated)
    rated = [item_index for item_index in range(150) if item_index not in set(unrated)]

    assert torch.equal(rows[unrated], initial[unrated])
    assert ((rows[rated] - initial[rated]).abs().amax(dim=1) > 1e-4).all()


def test_reset_rows_have_their_exact_initial_values(trained: Recommender) -> None:
    recommender = copied(trained)
    tokens = [trained.vocabulary.item(item_index) for item_index in (3, 77, 139)]

    reset_rows(recommender, tokens)

    (table,), (before,) = recommender.item_tables(), trained.item_tables()
    initial = initial_table(trained)
    others = torch.ones(trained.vocabulary.size, dtype=torch.bool)
    others[tokens] = False
    assert torch.equal(table[tokens], initial[tokens])
    assert torch.equal(table[others], before[others])
    assert not torch.equal(before[tokens], initial[tokens])


def test_resetting_no_rows_changes_nothing(trained: Recommender) -> None:
    recommender = copied(trained)

    reset_rows(recommender, [])

    before = trained.model.state_dict()
    after = recommender.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
