"""Batches of an epoch: every row once, alike in length where that saves padding, and repeatable."""

from __future__ import annotations

import pytest
import torch

from models.training.batches import GROUP, MIN_COLUMNS_SAVED, epoch_batches

LENGTHS = torch.randint(150, 400, (1000,), generator=torch.Generator().manual_seed(1))


def batches(lengths: torch.Tensor, seed: int = 0, size: int = 8) -> list[torch.Tensor]:
    return epoch_batches(lengths, size, torch.Generator().manual_seed(seed))


def padding(lengths: torch.Tensor, found: list[torch.Tensor]) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in found) - int(lengths.sum())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, GROUP * 8 + 3, 1000])
def test_every_row_comes_once(count: int) -> None:
    found = batches(LENGTHS[:count])
    assert sorted(row for rows in found for row in rows.tolist()) == list(range(count))
    assert len(found) == -(-count // 8)
    assert all(len(rows) <= 8 for rows in found)


def test_most_padding_is_saved() -> None:
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(0))
    plain = padding(LENGTHS, list(torch.split(order, 8)))

    assert padding(LENGTHS, batches(LENGTHS)) < 0.2 * plain


def test_batches_of_short_and_of_long_prompts_alternate() -> None:
    """An order by length would teach long histories last."""
    means = torch.stack([LENGTHS[rows].float().mean() for rows in batches(LENGTHS)])
    early, late = means.chunk(2)
    assert abs(float(early.mean() - late.mean())) < 20
    assert means.std() > 50


def test_the_order_follows_from_the_seed() -> None:
    def flat(seed: int) -> list[int]:
        return torch.cat(batches(LENGTHS, seed)).tolist()

    assert flat(3) == flat(3)
    assert flat(3) != flat(4)


def test_prompts_of_nearly_one_length_keep_their_permutation() -> None:
    """So do those of one token per item: the figures of compact models depend on it."""
    lengths = torch.randint(12, 12 + MIN_COLUMNS_SAVED, (1000,))
    generator = torch.Generator().manual_seed(5)
    again = torch.Generator().manual_seed(5)
    for _ in range(2):  # The second epoch shows that nothing else was drawn.
        found = epoch_batches(lengths, 8, generator)
        expected = torch.split(torch.randperm(1000, generator=again), 8)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
