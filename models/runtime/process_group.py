"""Split batches over the processes that train one model, and sum their results."""

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
    """A process's place among `size` processes that hold the same weights."""

    rank: int = 0
    size: int = 1

    def share(self, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return this process's rows of a batch and the fraction of the batch that they make up.

        A process without rows gets the first row with fraction 0, because every process must run
        the same collective operations.
        """
        own_rows = rows[self.rank :: self.size]
        return (own_rows, len(own_rows) / len(rows)) if len(own_rows) else (rows[:1], 0.0)

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor in place by its sum over all processes, which pass equal shapes."""
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
        tensor = torch.tensor([value], dtype=torch.float32, device=PartialState().device)
        return float(reduce(tensor, "sum").item())


#: The group of a process that trains by itself.
ALONE: Final = ProcessGroup()
