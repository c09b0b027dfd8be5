"""Prompts as tensors: tokens, and which of them are there. Nothing of what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from models.prompts.vocabulary import PAD

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptBatch:
    """B prompts of T tokens: `tokens` [B, T] int64; what is padding takes part in nothing.

    `present` [B, T] bool says what is no padding; without it, everything but PAD is there.
    """

    tokens: torch.Tensor
    present: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, rows: Sequence[torch.Tensor]) -> PromptBatch:
        """Return the prompts of [t] int64 tokens each; shorter ones end in padding."""
        there = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return cls(
            tokens=pad_sequence(list(rows), batch_first=True),
            present=pad_sequence(there, batch_first=True),
        )

    @classmethod
    def cat(cls, parts: Sequence[PromptBatch]) -> PromptBatch:
        """Return the prompts of all parts, one after the other; shorter ones end in padding."""
        width = max(part.tokens.shape[1] for part in parts)

        def wide(rows: torch.Tensor) -> torch.Tensor:
            return functional.pad(rows, (0, width - rows.shape[1]))

        tokens = torch.cat([wide(part.tokens) for part in parts])
        if all(part.present is None for part in parts):
            return cls(tokens=tokens)
        return cls(tokens=tokens, present=torch.cat([wide(part.mask.bool()) for part in parts]))

    @property
    def mask(self) -> torch.Tensor:
        """Return [B, T] int64, one where there is a token."""
        return ((self.tokens != PAD) if self.present is None else self.present).long()

    @property
    def positions(self) -> torch.Tensor:
        """Return [B, T] int64 positions that count real tokens only."""
        return (self.mask.cumsum(1) - 1).clamp_min(0)

    @property
    def lengths(self) -> torch.Tensor:
        """Return [B] int64: how many real tokens each prompt has."""
        return self.mask.sum(1)

    @property
    def last(self) -> torch.Tensor:
        """Return [B] int64: the column of each prompt's last real token."""
        return self.tokens.shape[1] - 1 - self.mask.flip(1).argmax(1)

    def to(self, device: torch.device) -> PromptBatch:
        """Return these prompts on a device."""
        present = None if self.present is None else self.present.to(device)
        return PromptBatch(tokens=self.tokens.to(device), present=present)

    def take(self, rows: torch.Tensor | slice) -> PromptBatch:
        """Return these prompts only."""
        present = None if self.present is None else self.present[rows]
        return PromptBatch(tokens=self.tokens[rows], present=present)

    def columns(self, start: int, end: int | None = None) -> PromptBatch:
        """Return these columns only."""
        present = None if self.present is None else self.present[:, start:end]
        return PromptBatch(tokens=self.tokens[:, start:end], present=present)

    def rests(self, start: int) -> list[torch.Tensor]:
        """Return [t] int64 for each prompt: its real tokens from this column on."""
        mask = self.mask.bool()[:, start:]
        return [row[there] for row, there in zip(self.tokens[:, start:], mask, strict=True)]

    def packed(self, *, right: bool) -> PromptBatch:
        """Move all padding to one end (tokens to the `right`, or left) and cut what is only that.

        Models that count columns instead of positions then see no gap.
        """
        mask = self.mask
        order = (mask if right else 1 - mask).argsort(dim=1, stable=True)
        longest = int(mask.sum(1).max()) if len(mask) else 0
        order = order[:, order.shape[1] - longest :] if right else order[:, :longest]
        return PromptBatch(
            tokens=self.tokens.gather(1, order), present=mask.bool().gather(1, order)
        )

    def shared(self) -> int:
        """Return how many first columns are one for all prompts, and leave each a token more."""
        if not len(self):
            return 0
        same = ((self.tokens == self.tokens[:1]) & self.mask.bool()).all(0)
        return min(int(same.long().cumprod(0).sum()), int(self.last.min()))
