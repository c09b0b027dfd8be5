"""Lay out the suffixes of many prompts without padding, sorted by their position in the suffix.

    item 1 … item N │ first attribute of each item that has one │ second … │ ANSWER 1 … ANSWER N

All tokens at one position are a contiguous run, and suffixes are sorted by length, longest first.
Attention between two positions thus becomes an operation on two slices. `CompactReader` needs this.
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
    """N suffixes of one prefix with T tokens in total, one token per column.

    `tokens` [T]; `positions` [T], counted from the end of the prefix; `ends`: the end column of
    each run, of which the last run holds the last token of every suffix; `order` [N]: the suffix
    to which each column of the last run belongs.
    """

    prefix: Prefix
    tokens: torch.Tensor
    positions: torch.Tensor
    ends: tuple[int, ...]
    order: torch.Tensor

    @property
    def width(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    @classmethod
    def from_suffixes(cls, prefix: Prefix, suffixes: PromptBatch) -> Self:
        """Lay out N suffixes, each of at least one token."""
        present = suffixes.mask.bool()
        lengths = present.sum(1)
        order = lengths.argsort(descending=True, stable=True)
        # Move padding to the end: compact prompts have it before their last token.
        tokens_first = (~present).long().argsort(dim=1, stable=True)
        tokens, lengths = suffixes.tokens.gather(1, tokens_first)[order], lengths[order]
        before_last = torch.arange(tokens.shape[1])[:, None] < lengths - 1
        counts = [count for count in before_last.sum(1).tolist() if count]
        last_tokens = tokens.gather(1, lengths[:, None] - 1)[:, 0]
        return cls(
            prefix=prefix,
            tokens=torch.cat([tokens.t()[before_last], last_tokens]),
            positions=torch.cat([before_last.nonzero()[:, 0], lengths - 1]),
            ends=tuple(accumulate([*counts, len(order)])),
            order=order,
        )

    def attention_pairs(self, *, last: bool) -> list[tuple[int, slice, slice]]:
        """Return (key run, query columns, key columns) for causal attention within the suffixes.

        With `last`, only the last tokens are queries, and query columns count from their run.
        """
        runs = list(pairwise((0, *self.ends)))
        query_runs = runs[-1:] if last else runs
        offset = query_runs[0][0]
        pairs = []
        for number, (start, end) in enumerate(query_runs, len(runs) - len(query_runs)):
            for key_run, (key_start, key_end) in enumerate(runs[: number + 1]):
                count, query_start = min(end - start, key_end - key_start), start - offset
                queries = slice(query_start, query_start + count)
                pairs.append((key_run, queries, slice(key_start, key_start + count)))
        return pairs
