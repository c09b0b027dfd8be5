"""Recommenders on text language models, causal or encoder-decoder, and on the compact T5."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

import torch

from models.inference.packed_reader import PackedReader, fits_sliding_windows
from models.recommender.base import Recommender, prepend_mask, to_cpu_float32

if TYPE_CHECKING:
    from torch import nn
    from transformers import DynamicCache

    from models.prompts.prompt_batch import PromptBatch


class TextRecommender(Recommender):
    """Any causal language model on text prompts, called through its public forward method.

    The full head is computed, because some models scale or bias their logits.
    """

    #: A key/value cache of a long history has megabytes per candidate.
    candidates_per_pass: ClassVar[int] = 32

    def reader(self) -> PackedReader | None:
        """Return what reads many candidates in packed rows, if this model can be read so."""
        return PackedReader.verified(
            self.model, self.prompt.answers, self.prompt.golden, self.logits
        )

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        shared = self.shared_length(prompts)
        reader = self.reader() if shared else None
        return reader.score(prompts, shared) if reader else super().score_logits(prompts)

    def shared_length(self, prompts: PromptBatch) -> int:
        """Return the number of shared leading columns; 0 if the model has no usable cache."""
        has_cache = "past_key_values" in _parameters(self.model)
        if not has_cache or not fits_sliding_windows(self.model, prompts):
            return 0
        return prompts.shared_length()

    def vocabulary_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, V] logits of all words at the answer position."""
        return to_cpu_float32(self._words(prompts))

    @property
    def answer_columns(self) -> tuple[int, int]:
        """Return the columns of Yes and No in the `vocabulary_logits`."""
        return self.prompt.answers

    def _forward(
        self, prompts: PromptBatch, cache: DynamicCache | None = None, past: int = 0
    ) -> torch.Tensor:
        return to_cpu_float32(self._words(prompts, cache, past)[:, list(self.prompt.answers)])

    def _words(
        self, prompts: PromptBatch, cache: DynamicCache | None = None, past: int = 0
    ) -> torch.Tensor:
        """Return [B, V] logits in the model's precision and on its device."""
        # With alignment to the right, all answers are in the last column.
        aligned = prompts.aligned(right=True).to(self.device)
        supported = _parameters(self.model)
        optional = {
            "position_ids": past + aligned.positions,
            # An index copies the column. With a slice, torch would multiply every row by a copy of
            # the whole head, which takes a fifth of the time of a training step.
            "logits_to_keep": torch.tensor([aligned.tokens.shape[1] - 1]),
            "past_key_values": cache,
        }
        logits: torch.Tensor = self.model(
            input_ids=aligned.tokens,
            attention_mask=prepend_mask(past, aligned.mask),
            use_cache=cache is not None,
            **{name: value for name, value in optional.items() if name in supported},
        ).logits[:, -1]
        return logits


class SequenceRecommender(Recommender):
    """Any encoder-decoder on text prompts: the decoder's first token is the answer."""

    candidates_per_pass: ClassVar[int] = 64

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) at the decoder's first position."""
        return to_cpu_float32(self._words(prompts)[:, list(self.prompt.answers)])

    def vocabulary_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, V] logits of all words at the decoder's first position."""
        return to_cpu_float32(self._words(prompts))

    @property
    def answer_columns(self) -> tuple[int, int]:
        """Return the columns of Yes and No in the `vocabulary_logits`."""
        return self.prompt.answers

    def _words(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, V] logits in the model's precision and on its device."""
        aligned = prompts.aligned(right=False).to(self.device)
        logits: torch.Tensor = self.model(
            input_ids=aligned.tokens,
            attention_mask=aligned.mask,
            decoder_input_ids=_decoder_starts(self.model, aligned),
            use_cache=False,
        ).logits[:, 0]
        return logits

    def shared_length(self, prompts: PromptBatch) -> int:  # noqa: ARG002 - the same for all
        """Return 0: an encoder's states of the history depend on the candidate."""
        return 0


class CompactSequenceRecommender(SequenceRecommender):
    """The compact encoder-decoder; computes only the two answer rows of the head."""

    candidates_per_pass: ClassVar[int] = 1024

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) at the decoder's first position.

        Embeds prompts with the model's shared input embedding, to which adapters and hooks are
        attached. The encoder's own embedding module only shares its weights.
        """
        aligned, model = prompts.aligned(right=False).to(self.device), self.model
        embedded = model.get_input_embeddings()(aligned.tokens)  # type: ignore[operator]
        encoded = model.get_encoder()(  # type: ignore[operator]
            inputs_embeds=embedded, attention_mask=aligned.mask
        ).last_hidden_state
        hidden = model.get_decoder()(  # type: ignore[operator]
            input_ids=_decoder_starts(model, aligned),
            encoder_hidden_states=encoded,
            encoder_attention_mask=aligned.mask,
            use_cache=False,
        ).last_hidden_state[:, 0]
        rows = model.get_output_embeddings().weight[list(self.prompt.answers)]  # type: ignore[operator]
        return to_cpu_float32(hidden @ rows.T)

    def vocabulary_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return the [B, 2] logits of (Yes, No), the only words that this model is trained on."""
        return self.answer_logits(prompts)

    @property
    def answer_columns(self) -> tuple[int, int]:
        """Return the columns of Yes and No in the `vocabulary_logits`."""
        return 0, 1


def _decoder_starts(model: nn.Module, prompts: PromptBatch) -> torch.Tensor:
    start: int = model.config.decoder_start_token_id  # type: ignore[union-attr, assignment]
    return torch.full((len(prompts), 1), start, device=prompts.tokens.device)


def _parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters of a model's forward method, below PEFT's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return frozenset(inspect.signature(inner.forward).parameters)
