"""Attention of packed rows in two parts: over the prefix, and of every rest over itself.

With a mask, a row of T tokens is compared with all T of its own columns, nearly all of them masked.
On processors torch's kernel for that is no faster in half precision than in single, while products
of matrices are: for 256 tokens after 260 of SmolLM2-135M it takes 4.4 ms a layer in bf16, and two
parts 2.4 ms. Both parts meet in one softmax, so the result is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SplitAttention(TorchFunctionMode):
    """While it is active on a thread, calls of torch's attention under one mask are split.

    U rows of T tokens stand behind prefixes of `width` columns; M rests in them begin at `starts`
    [M], counted over all U·T tokens, and have `lengths` [M]. Architectures that do not hand the
    very mask to torch's attention go on as ever.
    """

    def __init__(
        self, mask: torch.Tensor, width: int, starts: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        """Work out where each rest's tokens are; `mask` [U, 1, T, width + T] is the rows' own."""
        super().__init__()
        self._mask = mask
        self._width = width
        # Every token sees the same of the prefix, which is all but the padding before it.
        self._before = mask[:, :, :1, :width]
        self._padded = bool((self._before != 0).any())
        longest = int(lengths.max())
        steps = torch.arange(longest)
        self._there = steps < lengths[:, None]
        self._item_indices = torch.where(self._there, starts[:, None] + steps, starts[:, None])
        self._later = torch.ones(longest, longest).bool().triu(1)
        self._scores: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def faster(self) -> bool:
        """Say whether two parts are the faster way: in half precision on a processor."""
        return self._mask.device.type == "cpu" and self._mask.dtype != torch.float32

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Split attention under the mask; do everything else as it was asked."""
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
        """Return [U, H, T, D] from scaled queries [U, H, T, D] and [U, H, width + T, D] others."""
        split = self._width
        scores, weights = self._buffers(query)
        scores[..., :split] = query @ key[:, :, :split].transpose(2, 3)
        if self._padded:
            scores[..., :split] += self._before
        own = self._blocks(query) @ self._blocks(key[:, :, split:]).transpose(2, 3)
        scores[..., split:] = self._rows(own.masked_fill(self._later, -torch.inf), query)
        torch.softmax(scores, 3, out=weights)
        shares = weights.to(value.dtype)
        found = self._blocks(shares[..., split:]) @ self._blocks(value[:, :, split:])
        return (shares[..., :split] @ value[:, :, :split]).add_(self._rows(found, query))

    def _buffers(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return room for [U, H, T, width + C] in fp32, twice; all layers of a pass use the same.

        New memory for every layer would cost as much as the computing.
        """
        shape = (*query.shape[:3], self._width + self._there.shape[1])
        if self._scores is None or self._scores[0].shape != shape:
            self._scores = torch.empty(shape), torch.empty(shape)
        return self._scores

    def _blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [M, H, C, E], a block for each rest, from rows [U, H, T, E]."""
        return rows.transpose(1, 2).flatten(0, 1)[self._item_indices].transpose(1, 2)

    def _rows(self, blocks: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return [U, H, T, E] from blocks [M, H, C, E]; what is padding in the rows is 0."""
        rows, heads, tokens, _ = like.shape
        found = blocks.new_zeros(rows * tokens, heads, blocks.shape[-1])
        found[self._item_indices[self._there]] = blocks.transpose(1, 2)[self._there]
        return found.view(rows, tokens, heads, -1).transpose(1, 2)
