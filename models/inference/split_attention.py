"""Compute the attention of packed rows in two parts: over the prefix, and within each suffix.

With a mask, attention compares a row of T tokens with all T of its own columns, nearly all of them
masked. On a CPU, torch's attention kernel is no faster in half precision than in float32, while
matrix products are: for 256 tokens behind 260 of SmolLM2-135M in bfloat16, masked attention takes
4.4 ms per layer and attention in two parts 2.4 ms. One softmax over the scores of both parts makes
the result the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SplitAttention(TorchFunctionMode):
    """Replace torch's attention on this thread wherever it is called with one given mask.

    The mask belongs to U packed rows of T tokens behind prefixes of `width` columns. Their M
    suffixes begin at `starts` [M], counted over all U·T tokens, and have `lengths` [M]. An
    architecture that passes another mask object to torch's attention is not affected.
    """

    def __init__(
        self, mask: torch.Tensor, width: int, starts: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        """Compute the token indices of each suffix; `mask` is [U, 1, T, width + T]."""
        super().__init__()
        self._mask = mask
        self._width = width
        # All tokens of a row see the same columns of the prefix: all but the padding.
        self._prefix_mask = mask[:, :, :1, :width]
        self._has_padding = bool((self._prefix_mask != 0).any())
        longest = int(lengths.max())
        steps = torch.arange(longest)
        self._present = steps < lengths[:, None]
        self._token_indices = torch.where(self._present, starts[:, None] + steps, starts[:, None])
        self._later = torch.ones(longest, longest).bool().triu(1)
        self._scores: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def is_faster(self) -> bool:
        """Return whether two parts are faster: in half precision on a CPU."""
        return self._mask.device.type == "cpu" and self._mask.dtype != torch.float32

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Split attention under the mask; call every other function unchanged."""
        kwargs = kwargs or {}
        if (
            func is functional.scaled_dot_product_attention
            and kwargs.get("attn_mask") is self._mask
            and not kwargs.get("enable_gqa")
        ):
            query, key, value = args
            scale = kwargs.get("scale")
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            return self._attend(query * scale, key, value)
        return func(*args, **kwargs)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return [U, H, T, D]; queries are scaled, keys and values are [U, H, width + T, D]."""
        split = self._width
        scores, weights = self._buffers(query)
        scores[..., :split] = query @ key[:, :, :split].transpose(2, 3)
        if self._has_padding:
            scores[..., :split] += self._prefix_mask
        own = self._blocks(query) @ self._blocks(key[:, :, split:]).transpose(2, 3)
        scores[..., split:] = self._rows(own.masked_fill(self._later, -torch.inf), query)
        torch.softmax(scores, 3, out=weights)
        shares = weights.to(value.dtype)
        attended = self._blocks(shares[..., split:]) @ self._blocks(value[:, :, split:])
        return (shares[..., :split] @ value[:, :, :split]).add_(self._rows(attended, query))

    def _buffers(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two float32 buffers [U, H, T, width + C], which all layers of a pass share.

        Allocating memory for every layer would take as long as the computation.
        """
        shape = (*query.shape[:3], self._width + self._present.shape[1])
        if self._scores is None or self._scores[0].shape != shape:
            self._scores = torch.empty(shape), torch.empty(shape)
        return self._scores

    def _blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [M, H, C, E], one block per suffix, from rows [U, H, T, E]."""
        return rows.transpose(1, 2).flatten(0, 1)[self._token_indices].transpose(1, 2)

    def _rows(self, blocks: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return rows [U, H, T, E] from blocks [M, H, C, E]; padding is 0."""
        row_count, heads, token_count, _ = like.shape
        rows = blocks.new_zeros(row_count * token_count, heads, blocks.shape[-1])
        rows[self._token_indices[self._present]] = blocks.transpose(1, 2)[self._present]
        return rows.view(row_count, token_count, heads, -1).transpose(1, 2)
