"""The recommender: will this user like this item? P(Yes) against No at the answer position.

One forward interface over the backbone. Training, unlearning, auditing and serving all use it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from transformers import DynamicCache

from models.backbones import build_compact
from models.prompts import CompactPrompt, Encoded
from models.vocabulary import NO, PAD, YES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from models.backbones import BackboneConfig, CompactConfig
    from models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One earlier rating: the item's slot and 0.5 to 5 stars."""

    slot: int
    rating: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item to score: its slot and its attribute values."""

    slot: int
    attributes: Mapping[str, Sequence[str]]


class Recommender:
    """A backbone, its vocabulary and its prompt. Scoring is a pure read and thread-safe."""

    def __init__(
        self, vocabulary: Vocabulary, config: CompactConfig, model: nn.Module | None = None
    ) -> None:
        """Take a model (possibly wrapped by PEFT), or build one with its initial weights."""
        self.vocabulary = vocabulary
        self.config: BackboneConfig = config
        self.prompt = CompactPrompt(vocabulary)
        self.model: nn.Module = build_compact(vocabulary, config) if model is None else model

    def with_model(self, model: nn.Module) -> Self:
        """Return a recommender of the same kind around another model."""
        copied = copy.copy(self)
        copied.model = model
        return copied

    def item_tables(self) -> list[torch.Tensor]:
        """Return every weight that has one row per token, items among them, as live views."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return [weight]

    def answer_logits(self, prompts: Encoded) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) for B prompts; gradients flow where enabled.

        Only the two answer rows of the head are computed.
        """
        decoder = self.model.get_decoder()  # type: ignore[operator] # transformers is untyped
        hidden = decoder(
            input_ids=prompts.tokens,
            attention_mask=prompts.mask,
            position_ids=prompts.positions,
            use_cache=False,
        ).last_hidden_state[:, -1]
        return self._answer(hidden)

    @torch.inference_mode()
    def logits(self, prompts: Encoded, batch_size: int = 1024) -> torch.Tensor:
        """Return [B, 2] logits without gradients, dropout off, in batches."""
        training = self.model.training
        self.model.eval()
        parts = [
            self.answer_logits(Encoded(tokens=tokens))
            for tokens in torch.split(prompts.tokens, batch_size)
            if len(tokens)  # No prompts split into one empty batch, which no decoder takes.
        ]
        self.model.train(training)
        return torch.cat(parts) if parts else torch.empty(0, 2)

    @torch.inference_mode()
    def score(
        self,
        user_attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes) for N candidates of one user.

        The history (its last ten events, oldest first) is encoded once; all candidates are scored
        in one batch on its key/value cache.
        """
        if not candidates:
            return np.empty(0, dtype=np.float32)
        logits = self.request_logits(user_attributes, history, candidates)
        scores: NDArray[np.float32] = logits.softmax(1)[:, 0].numpy()
        return scores

    @torch.inference_mode()
    def request_logits(
        self,
        user_attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> torch.Tensor:
        """Return [N, 2] logits of (Yes, No) for N candidates of one user; N is not 0."""
        decoder = self.model.get_decoder()  # type: ignore[operator] # transformers is untyped
        prefix = self.prompt.prefix(user_attributes, [(e.slot, e.rating) for e in history])
        cache = DynamicCache(config=decoder.config)
        decoder(input_ids=prefix, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(candidates))
        suffix = self.prompt.suffixes([(c.slot, c.attributes) for c in candidates])
        present = (suffix != PAD).long()
        hidden = decoder(
            input_ids=suffix,
            attention_mask=torch.cat([present.new_ones(len(suffix), prefix.shape[1]), present], 1),
            position_ids=prefix.shape[1] - 1 + present.cumsum(1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        return self._answer(hidden)

    def _answer(self, hidden: torch.Tensor) -> torch.Tensor:
        embedding = self.model.get_output_embeddings().weight  # type: ignore[operator]
        logits: torch.Tensor = hidden @ embedding[[YES, NO]].T
        return logits
