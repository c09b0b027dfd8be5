"""Recommenders on other models than the compact causal one: text, and encoder-decoders.

Knows how such models are called; nothing of where they come from.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

import torch

from models.inference.shared_prefix import PackedReader, within_windows
from models.recommender.base import Recommender, prepend_mask, to_cpu_float32

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache

    from models.prompts.prompt_batch import PromptBatch


class TextRecommender(Recommender):
    """Any causal language model, called as its authors meant it to be: scales and biases count."""

    #: A copy of the cache of a long history takes megabytes.
    at_once: ClassVar[int] = 32

    def reader(self) -> PackedReader | None:
        """Return what reads many candidates in packed rows, if this model can be read so."""
        return PackedReader.of(self.model, self.prompt.answers, self.prompt.golden, self.logits)

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        shared = self.shared_length(prompts)
        reader = self.reader() if shared else None
        return reader.score(prompts, shared) if reader else super().score_logits(prompts)

    def shared(self, prompts: PromptBatch) -> int:
        """Return how many first columns may be read once for all: none without a cache for them."""
        if "past_key_values" not in _parameters(self.model) or not within_windows(
            self.model, prompts
        ):
            return 0
        return prompts.shared_length()

    def _forward(
        self, prompts: PromptBatch, cache: DynamicCache | None = None, past: int = 0
    ) -> torch.Tensor:
        # Packed so that all answers are in the last column.
        packed = prompts.aligned(right=True).to(self.device)
        known = _parameters(self.model)
        optional = {
            "position_ids": past + packed.positions,
            # An index makes a compact copy of the column. A slice of it would be multiplied by a
            # copy of the whole head for every row, a fifth of the time of a training step.
            "logits_to_keep": torch.tensor([packed.tokens.shape[1] - 1]),
            "past_key_values": cache,
        }
        logits: torch.Tensor = self.model(
            input_ids=packed.tokens,
            attention_mask=prepend_mask(past, packed.mask),
            use_cache=cache is not None,
            **{name: value for name, value in optional.items() if name in known},
        ).logits[:, -1]
        return to_cpu_float32(logits[:, list(self.prompt.answers)])


class SequenceRecommender(Recommender):
    """Any encoder-decoder: it reads the prompt, and its first word is the answer."""

    at_once: ClassVar[int] = 64

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) at the decoder's first position."""
        packed = prompts.aligned(right=False).to(self.device)
        logits: torch.Tensor = self.model(
            input_ids=packed.tokens,
            attention_mask=packed.mask,
            decoder_input_ids=_starts(self.model, packed),
            use_cache=False,
        ).logits[:, 0]
        return to_cpu_float32(logits[:, list(self.prompt.answers)])

    def shared(self, prompts: PromptBatch) -> int:  # noqa: ARG002 - none, whatever they are
        """Return 0: what an encoder makes of the history knows the candidate."""
        return 0


class CompactSequenceRecommender(SequenceRecommender):
    """The compact encoder-decoder: only the two answer rows of the head are computed."""

    at_once: ClassVar[int] = 1024

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) at the decoder's first position.

        Prompts go through the model's one input embedding, where adapters and hooks sit, and not
        through the encoder's own module, which only shares its weights.
        """
        packed, model = prompts.aligned(right=False).to(self.device), self.model
        embedded = model.get_input_embeddings()(packed.tokens)  # type: ignore[operator]
        read = model.get_encoder()(  # type: ignore[operator]
            inputs_embeds=embedded, attention_mask=packed.mask
        ).last_hidden_state
        hidden = model.get_decoder()(  # type: ignore[operator]
            input_ids=_starts(model, packed),
            encoder_hidden_states=read,
            encoder_attention_mask=packed.mask,
            use_cache=False,
        ).last_hidden_state[:, 0]
        rows = model.get_output_embeddings().weight[list(self.prompt.answers)]  # type: ignore[operator]
        return to_cpu_float32(hidden @ rows.T)


def _starts(model: nn.Module, prompts: PromptBatch) -> torch.Tensor:
    start: int = model.config.decoder_start_token_id  # type: ignore[union-attr, assignment]
    return torch.full((len(prompts), 1), start, device=prompts.tokens.device)


def _parameters(model: nn.Module) -> frozenset[str]:
    """Return what a model, under PEFT or not, can be called with: not all take the same."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return frozenset(inspect.signature(inner.forward).parameters)
