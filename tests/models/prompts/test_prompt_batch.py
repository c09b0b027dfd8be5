"""Prompt batches: alignment, concatenation and selection keep tokens and masks together."""

from __future__ import annotations

import torch

from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import PAD

#: Two prompts with padding other than PAD: one on the left, one in the middle.
PROMPTS = PromptBatch(
    tokens=torch.tensor([[9, 9, 5, 6], [7, 9, 8, 9]]),
    present=torch.tensor([[False, False, True, True], [True, False, True, False]]),
)


def rows(prompts: PromptBatch) -> list[list[int]]:
    return [
        row[mask.bool()].tolist() for row, mask in zip(prompts.tokens, prompts.mask, strict=True)
    ]


def test_an_explicit_mask_overrides_pad() -> None:
    tokens = torch.tensor([[PAD, 3, PAD]])

    assert PromptBatch(tokens=tokens).mask.tolist() == [[0, 1, 0]]
    explicit = PromptBatch(tokens=tokens, present=torch.tensor([[True, True, False]]))
    assert explicit.mask.tolist() == [[1, 1, 0]]
    assert explicit.positions.tolist() == [[0, 1, 1]]
    assert explicit.lengths.tolist() == [2]


def test_last_is_the_last_real_token() -> None:
    assert PROMPTS.last.tolist() == [3, 2]
    assert PromptBatch(tokens=torch.tensor([[4, 0, 0], [0, 0, 4], [4, 5, 0]])).last.tolist() == [
        0,
        2,
        1,
    ]


def test_alignment_moves_padding_to_one_edge_and_removes_empty_columns() -> None:
    for right, first in ((True, [5, 6]), (False, [5, 6])):
        aligned = PROMPTS.aligned(right=right)
        assert aligned.tokens.shape == (2, 2)
        assert aligned.tokens[0].tolist() == first
        assert rows(aligned) == [[5, 6], [7, 8]]
    uneven = PromptBatch(tokens=torch.tensor([[1, 0, 2, 3, 0], [0, 4, 0, 0, 0]]))
    assert uneven.aligned(right=True).mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert uneven.aligned(right=False).mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_concatenation_keeps_tokens_and_masks() -> None:
    narrow = PromptBatch(tokens=torch.tensor([[3, 0, 2]]))

    both = PromptBatch.cat([PROMPTS, narrow])

    assert rows(both) == [[5, 6], [7, 8], [3, 2]]
    assert both.tokens.shape == (3, 4)
    assert PromptBatch.cat([narrow, narrow]).present is None
    assert rows(PromptBatch.cat([narrow, narrow])) == [[3, 2], [3, 2]]


def test_selected_rows_and_columns_keep_their_masks() -> None:
    assert rows(PROMPTS.take(torch.tensor([1, 0]))) == [[7, 8], [5, 6]]
    assert rows(PROMPTS.take(slice(1, None))) == [[7, 8]]
    assert rows(PROMPTS.columns(2)) == [[5, 6], [8]]


def test_shared_length_leaves_every_prompt_a_token() -> None:
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 4]])
    assert PromptBatch(tokens=tokens).shared_length() == 2
    assert PromptBatch(tokens=tokens[:1]).shared_length() == 3
    assert PromptBatch(tokens=torch.tensor([[1, 2, 0], [1, 2, 3]])).shared_length() == 1
    assert PROMPTS.shared_length() == 0
    assert PROMPTS.take(slice(0)).shared_length() == 0
