"""Define the key/value cache of a shared prefix, and the interface of readers that use it.

All candidates of a user share the beginning of their prompts, the prefix. A reader computes its
keys and values once (prefix caching), and then reads only the rest of each prompt, its suffix.
`PackedReader` reads most causal language models, `CompactReader` the compact backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from models.prompts.prompt_batch import PromptBatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefix:
    """Tokens [h] and their key/value cache: per layer keys and values [1, heads, h, head size]."""

    tokens: torch.Tensor
    states: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Return the memory of the keys and values, in bytes."""
        return sum(tensor.nbytes for pair in self.states for tensor in pair)

    def truncate(self, length: int) -> Prefix:
        """Return the prefix of the first `length` tokens, as views.

        Valid because in a causal model later tokens do not change the states of earlier ones.
        """
        states = tuple(
            (keys[..., :length, :], values[..., :length, :]) for keys, values in self.states
        )
        return Prefix(tokens=self.tokens[:length], states=states)


class Reader(Protocol):
    """Read prefixes once and score suffixes behind them, in rows that have a `width` in tokens.

    Thread-safe: neither the model nor a prefix is ever changed.
    """

    @property
    def batches_requests(self) -> bool:
        """Return whether scoring rows of several requests together is faster."""

    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return the key/value caches of several independent [h] token sequences."""

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> Sequence[Any]:
        """Return the suffixes of N prompts with this prefix, in order, as rows for `answer`."""

    def answer(self, batch: Sequence[Any]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No), float32 on the CPU."""
