"""The processes that train one model together, each on its share of every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from accelerate import PartialState
from accelerate.utils import reduce

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """One of `size` processes that hold the same weights; by default the only one."""

    rank: int = 0
    size: int = 1

    def share(self, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return this process's rows of a batch, and the share of it that they are.

        Whoever gets none computes the first, which then counts 0, so that all do the same.
        """
        own = rows[self.rank :: self.size]
        return (own, len(own) / len(rows)) if len(own) else (rows[:1], 0.0)

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors, which are alike in all processes, by their sums over all, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.float().flatten() for tensor in tensors])
        summed = reduce(flat, "sum").split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, summed, strict=True):
            tensor.copy_(total.view_as(tensor))

    def total(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float32, device=PartialState().device)
        return float(reduce(held, "sum").item())


ALONE: Final = ProcessGroup()
