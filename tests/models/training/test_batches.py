"""Test the batches of an epoch: every row once, similar lengths together, reproducible."""

from __future__ import annotations

import pytest
import torch

from models.training.batches import GROUP, MIN_COLUMNS_SAVED, epoch_batches

LENGTHS = torch.randint(150, 400, (1000,), generator=torch.Generator().manual_seed(1))


def batches(lengths: torch.Tensor, seed: int = 0, size: int = 8) -> list[torch.Tensor]:
    return epoch_batches(lengths, size, torch.Generator().manual_seed(seed))


def padding(lengths: torch.Tensor, rows_by_batch: list[torch.Tensor]) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in rows_by_batch) - int(lengths.sum())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, GROUP * 8 + 3, 1000])
def test_every_row_is_in_one_batch(count: int) -> None:
    epoch = batches(LENGTHS[:count])
    assert sorted(row for rows in epoch for row in rows.tolist()) == list(range(count))
    assert len(epoch) == -(-count // 8)
    assert all(len(rows) <= 8 for rows in epoch)


def test_sorting_by_length_saves_most_padding() -> None:
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(0))
    plain = padding(LENGTHS, list(torch.split(order, 8)))

    assert padding(LENGTHS, batches(LENGTHS)) < 0.2 * plain


def test_batches_of_short_and_of_long_prompts_alternate() -> None:
    """An order by length would train on long histories last."""
    means = torch.stack([LENGTHS[rows].float().mean() for rows in batches(LENGTHS)])
    early, late = means.chunk(2)
    assert abs(float(early.mean() - late.mean())) < 20
    assert means.std() > 50


def test_same_seed_gives_same_order() -> None:
    def flat(seed: int) -> list[int]:
        return torch.cat(batches(LENGTHS, seed)).tolist()

    assert flat(3) == flat(3)
    assert flat(3) != flat(4)


def test_similar_lengths_keep_the_plain_permutation() -> None:
    """Prompts with one token per item have similar lengths; published figures depend on it."""
    lengths = torch.randint(12, 12 + MIN_COLUMNS_SAVED, (1000,))
    generator = torch.Generator().manual_seed(5)
    again = torch.Generator().manual_seed(5)
    for _ in range(2):  # The second epoch shows that no other numbers were drawn.
        epoch = epoch_batches(lengths, 8, generator)
        expected = torch.split(torch.randperm(1000, generator=again), 8)
        assert all(torch.equal(*pair) for pair in zip(epoch, expected, strict=True))
