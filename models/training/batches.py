"""Which rows train together: prompts of similar length, where that saves padding."""

from __future__ import annotations

from typing import Final

import torch

#: So many batches are sorted among themselves: enough to be alike, few enough to stay random.
GROUP: Final = 16
#: Batches are sorted where that saves a row so many columns of padding; prompts of one token per
#: item never come so far apart, and keep the order of their permutation.
WORTHWHILE: Final = 16


def epoch_batches(
    lengths: torch.Tensor, batch_size: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Return the batches of one epoch over B prompts of [B] lengths: every row in one of them.

    Random groups of batches are sorted by length, and their batches shuffled.
    """
    if not len(lengths):
        return []
    order = torch.randperm(len(lengths), generator=generator)
    plain = list(torch.split(order, batch_size))
    alike = [
        batch
        for group in torch.split(order, GROUP * batch_size)
        for batch in torch.split(group[lengths[group].argsort(stable=True)], batch_size)
    ]
    if _columns(lengths, plain) - _columns(lengths, alike) < WORTHWHILE * len(lengths):
        return plain
    return [alike[index] for index in torch.randperm(len(alike), generator=generator).tolist()]


def _columns(lengths: torch.Tensor, batches: list[torch.Tensor]) -> int:
    """Return how many tokens these batches have with their padding."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)
