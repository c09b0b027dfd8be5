"""Item rows that return toward their initial values, compared with hand-computed shares."""

from __future__ import annotations

from dataclasses import replace

import torch

from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.recommender.ensemble import input_table
from models.recommender.factory import build
from models.recommender.returned_rows import removed_samples, returned_rows
from models.recommender.token_rows import with_rows
from tests.support.planted_tastes import HOLDOUT, RECIPE, planted

DATA = planted()
WHOLE = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT)
VOCABULARY = Vocabulary.from_catalog(DATA)
#: A (user, item) rating in the middle of a history: in eleven samples, as candidate of only one.
PAIR = (3, int(DATA.item[DATA.user == 3][12]))
TOKEN = VOCABULARY.first_item + PAIR[1]
WITHOUT_PAIR = split_for_forgetting(
    DATA, ForgetIndices(pairs=frozenset([PAIR])), HOLDOUT, WHOLE.bounds
)


def test_a_sample_with_a_shortened_history_is_not_removed() -> None:
    removed = removed_samples(WITHOUT_PAIR)
    assert len(WITHOUT_PAIR.forget) == 11
    assert (removed.user.tolist(), removed.candidate.tolist()) == ([PAIR[0]], [PAIR[1]])


def test_an_item_outside_the_vocabulary_has_no_row_to_change() -> None:
    small = replace(VOCABULARY, item_capacity=PAIR[1])
    assert not len(returned_rows(build(small, RECIPE.backbone), WITHOUT_PAIR).tokens)


def test_a_row_returns_by_the_share_of_its_samples_that_leave() -> None:
    initial = build(VOCABULARY, RECIPE.backbone)
    learned = torch.arange(input_table(initial).shape[1], dtype=torch.float32)
    start = input_table(initial)[TOKEN].clone()
    with torch.no_grad():
        input_table(initial)[TOKEN] += learned
    count = int((WHOLE.parts.train.candidate == PAIR[1]).sum())

    rows = returned_rows(initial, WITHOUT_PAIR)

    assert rows.tokens.tolist() == [TOKEN]
    assert torch.allclose(rows.values[0], start + learned * (count - 1) / count, atol=1e-5)
    changed = input_table(with_rows(initial, rows)) != input_table(initial)
    assert changed.any(1).nonzero().flatten().tolist() == [TOKEN]
