"""Hold a batch of prompts as tensors: token ids with their padding mask."""

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
    """B prompts of T columns, of which some are padding.

    `tokens` [B, T] int64. `present` [B, T] bool is False for padding; None means that exactly the
    PAD tokens are padding. Padding may be in any column.
    """

    tokens: torch.Tensor
    present: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_rows(cls, rows: Sequence[torch.Tensor]) -> PromptBatch:
        """Return a batch of prompts of [t] int64 tokens each, padded on the right."""
        present = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return cls(
            tokens=pad_sequence(list(rows), batch_first=True),
            present=pad_sequence(present, batch_first=True),
        )

    @classmethod
    def cat(cls, parts: Sequence[PromptBatch]) -> PromptBatch:
        """Concatenate batches; prompts of narrower batches are padded on the right."""
        width = max(part.tokens.shape[1] for part in parts)

        def widen(rows: torch.Tensor) -> torch.Tensor:
            return functional.pad(rows, (0, width - rows.shape[1]))

        tokens = torch.cat([widen(part.tokens) for part in parts])
        if all(part.present is None for part in parts):
            return cls(tokens=tokens)
        return cls(tokens=tokens, present=torch.cat([widen(part.mask.bool()) for part in parts]))

    @property
    def mask(self) -> torch.Tensor:
        """Return the [B, T] int64 attention mask: 1 for tokens, 0 for padding."""
        return ((self.tokens != PAD) if self.present is None else self.present).long()

    @property
    def positions(self) -> torch.Tensor:
        """Return [B, T] int64 positions, which do not count padding."""
        return (self.mask.cumsum(1) - 1).clamp_min(0)

    @property
    def lengths(self) -> torch.Tensor:
        """Return [B] int64: the number of tokens of each prompt without padding."""
        return self.mask.sum(1)

    @property
    def last(self) -> torch.Tensor:
        """Return [B] int64: the column of each prompt's last token."""
        return self.tokens.shape[1] - 1 - self.mask.flip(1).argmax(1)

    def to(self, device: torch.device) -> PromptBatch:
        """Return the batch on a device."""
        present = None if self.present is None else self.present.to(device)
        return PromptBatch(tokens=self.tokens.to(device), present=present)

    def take(self, rows: torch.Tensor | slice) -> PromptBatch:
        """Return the prompts in these rows."""
        present = None if self.present is None else self.present[rows]
        return PromptBatch(tokens=self.tokens[rows], present=present)

    def columns(self, start: int, end: int | None = None) -> PromptBatch:
        """Return the columns from `start` to before `end` of all prompts."""
        present = None if self.present is None else self.present[:, start:end]
        return PromptBatch(tokens=self.tokens[:, start:end], present=present)

    def token_rows(self, start: int) -> list[torch.Tensor]:
        """Return each prompt's tokens from column `start` on, [t] int64 without padding."""
        mask = self.mask.bool()[:, start:]
        return [row[present] for row, present in zip(self.tokens[:, start:], mask, strict=True)]

    def aligned(self, *, right: bool) -> PromptBatch:
        """Return the prompts aligned to the right (or left) edge, without superfluous columns.

        Models that compute positions from columns need prompts without gaps.
        """
        mask = self.mask
        order = (mask if right else 1 - mask).argsort(dim=1, stable=True)
        longest = int(mask.sum(1).max()) if len(mask) else 0
        order = order[:, order.shape[1] - longest :] if right else order[:, :longest]
        return PromptBatch(
            tokens=self.tokens.gather(1, order), present=mask.bool().gather(1, order)
        )

    def shared_length(self) -> int:
        """Return the number of leading columns that are the same in all prompts.

        At least one token of each prompt is left outside of the shared columns.
        """
        if not len(self):
            return 0
        same = ((self.tokens == self.tokens[:1]) & self.mask.bool()).all(0)
        return min(int(same.long().cumprod(0).sum()), int(self.last.min()))
