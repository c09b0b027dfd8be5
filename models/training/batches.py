"""Choose which rows share a batch: prompts of similar length where that saves padding."""

from __future__ import annotations

from typing import Final

import torch

#: Number of batches whose rows are sorted together by length: enough rows for similar lengths in a
#: batch, few enough for random batches.
GROUP: Final = 16
#: Minimum number of padding columns saved per row for which batches are sorted. Prompts with one
#: token per item stay below it, so that their order stays the plain permutation.
MIN_COLUMNS_SAVED: Final = 16


def epoch_batches(
    lengths: torch.Tensor, batch_size: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Return the batches of one epoch as row indices; every row is in exactly one batch.

    `lengths` [B] are the prompts' lengths in tokens. Rows are sorted by length inside random groups
    of batches, and the sorted batches are shuffled.
    """
    if not len(lengths):
        return []
    order = torch.randperm(len(lengths), generator=generator)
    shuffled = list(torch.split(order, batch_size))
    by_length = [
        batch
        for group in torch.split(order, GROUP * batch_size)
        for batch in torch.split(group[lengths[group].argsort(stable=True)], batch_size)
    ]
    saved = _padded_size(lengths, shuffled) - _padded_size(lengths, by_length)
    if saved < MIN_COLUMNS_SAVED * len(lengths):
        return shuffled
    positions = torch.randperm(len(by_length), generator=generator).tolist()
    return [by_length[position] for position in positions]


def _padded_size(lengths: torch.Tensor, batches: list[torch.Tensor]) -> int:
    """Return the number of tokens of the batches, padding included."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)
