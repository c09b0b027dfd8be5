"""Rests of prompts laid out as columns, so that what stands at one place is one run of columns.

    item 1 … item N │ attribute 1 of those that have one │ attribute 2 … │ answer 1 … answer N

Those with most tokens come first, and nothing is padded. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from models.inference.shared_prefix import Prefix
    from models.prompts.prompt_batch import PromptBatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """N rests behind one prefix, as columns: `tokens` [T] and their `places` [T] behind the prefix.

    `ends` are where runs of columns end, the last being the last token of each; `order` [N] says
    which rest each of those is.
    """

    prefix: Prefix
    tokens: torch.Tensor
    places: torch.Tensor
    ends: tuple[int, ...]
    order: torch.Tensor

    @property
    def width(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    @classmethod
    def of(cls, prefix: Prefix, rests: PromptBatch) -> Self:
        """Lay out N rests, each of one real token at least."""
        there = rests.mask.bool()
        lengths = there.sum(1)
        order = lengths.argsort(descending=True, stable=True)
        # Padding goes to the end: compact prompts have it before their last token.
        moved = (~there).long().argsort(dim=1, stable=True)
        tokens, lengths = rests.tokens.gather(1, moved)[order], lengths[order]
        before = torch.arange(tokens.shape[1])[:, None] < lengths - 1
        counts = [count for count in before.sum(1).tolist() if count]
        return cls(
            prefix=prefix,
            tokens=torch.cat([tokens.t()[before], tokens.gather(1, lengths[:, None] - 1)[:, 0]]),
            places=torch.cat([before.nonzero()[:, 0], lengths - 1]),
            ends=tuple(accumulate([*counts, len(order)])),
            order=order,
        )

    def pairs(self, *, last: bool) -> list[tuple[int, slice, slice]]:
        """Return (place, columns that ask, columns at that place that they see), run by run.

        Each sees its own rest up to itself. With `last` only the last tokens ask, and columns that
        ask are counted among them.
        """
        runs = list(pairwise((0, *self.ends)))
        asking = runs[-1:] if last else runs
        skipped = asking[0][0]
        found = []
        for number, (start, end) in enumerate(asking, len(runs) - len(asking)):
            for place, (first, stop) in enumerate(runs[: number + 1]):
                few, own = min(end - start, stop - first), start - skipped
                found.append((place, slice(own, own + few), slice(first, first + few)))
        return found
