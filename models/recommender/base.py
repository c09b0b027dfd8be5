"""Score whether a user will like an item: P(Yes) against No at the prompt's answer position.

`Recommender` is the interface to the model that training, unlearning, auditing and serving use, and
the implementation for compact causal models. `models.recommender.language` has text models and
encoder-decoders.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from models.backbones.compact import CompactConfig, UnknownBackboneError, build_compact
from models.inference.compact_reader import CompactReader
from models.prompts.compact_prompt import CompactPrompt
from models.runtime.memory import Memory, attempt, halved, tokens_that_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from models.backbones.compact import BackboneConfig
    from models.inference.shared_prefix import Reader
    from models.prompts.compact_prompt import Prompt
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.scoring_inputs import Candidate, HistoryEvent
    from models.prompts.vocabulary import Vocabulary

#: Maximum tokens of a batch without gradients.
BATCH_TOKENS: Final = 32_768
#: The same for text prompts on a CPU, whose caches hold the activations of about so many tokens:
#: SmolLM2 reads prompts of 200 tokens in .24 s each in batches of 8, and in .65 s in batches of 64.
BATCH_TOKENS_ON_CPU: Final = 2_048


class Recommender:
    """A backbone with its vocabulary and prompt style. Scoring is read-only and thread-safe."""

    #: Candidates per scoring pass; each has a copy of the prefix's key/value cache.
    candidates_per_pass: ClassVar[int] = 1024

    def __init__(
        self,
        vocabulary: Vocabulary,
        config: BackboneConfig,
        model: nn.Module | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        """Take a model, with or without a PEFT adapter, or build the compact model of `config`.

        Raises UnknownBackboneError without a model if `config` is not a CompactConfig;
        `factory.build` builds all kinds.
        """
        self.vocabulary = vocabulary
        self.config: BackboneConfig = config
        self.prompt: Prompt = CompactPrompt(vocabulary) if prompt is None else prompt
        if model is None:
            if not isinstance(config, CompactConfig):
                raise UnknownBackboneError(UnknownBackboneError.__doc__)
            model = build_compact(vocabulary, config)
        self.model: nn.Module = model
        self.memory = Memory()

    #: The shared public model below this recommender's adapter; the reference keeps it loaded.
    public: nn.Module | None = None

    def with_model(self, model: nn.Module) -> Self:
        """Return a recommender of the same kind around another model."""
        recommender = copy.copy(self)
        recommender.model = model
        recommender.memory = Memory()
        return recommender

    @property
    def device(self) -> torch.device:
        """Return the model's device; prompts and logits of all methods are on the CPU."""
        return next(self.model.parameters()).device

    def reader(self) -> Reader | None:
        """Return a reader that scores with prefix caching, or None if the model has none.

        The reader uses the present weights; later changes may not reach it.
        """
        if not isinstance(self.config, CompactConfig):
            return None
        return CompactReader.verified(
            self.model, self.prompt.answers, self.prompt.golden, self.logits
        )

    def shared_length(self, prompts: PromptBatch) -> int:
        """Return the number of leading columns that the model can read once for all prompts."""
        return prompts.shared_length()

    def item_tables(self) -> list[torch.Tensor]:
        """Return every weight with one row per token [V, ·] as a view; [] without item tokens."""
        if not self.prompt.item_tokens:
            return []
        weight: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return [weight]

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) for B prompts; gradients flow where enabled."""
        return self._forward(prompts)

    def vocabulary_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, V] logits of all words at the answer position; gradients flow where enabled.

        A compact model is trained on the two answers only, so that its V is 2: (Yes, No).
        """
        return self.answer_logits(prompts)

    @property
    def answer_columns(self) -> tuple[int, int]:
        """Return the columns of Yes and No in the `vocabulary_logits`."""
        return 0, 1

    def live_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) with gradients, in micro-batches where memory is short.

        The backward pass recomputes each micro-batch, so that only one holds its activations.
        """
        return self._in_micro_batches(prompts, self.answer_logits)

    def live_vocabulary_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return the `vocabulary_logits` with gradients, in micro-batches like `live_logits`."""
        return self._in_micro_batches(prompts, self.vocabulary_logits)

    def _in_micro_batches(
        self, prompts: PromptBatch, logits_of: Callable[[PromptBatch], torch.Tensor]
    ) -> torch.Tensor:
        memory, lengths = self.memory, prompts.lengths
        memory.last_batch_rows = len(prompts)
        longest = int(lengths.max()) if len(prompts) else 0
        if memory.training_tokens is None and self.device.type == "cpu" and len(prompts) > 1:
            longest_prompt = prompts.take(lengths.argmax()[None])
            memory.training_tokens = tokens_that_fit(
                self.model, partial(logits_of, longest_prompt), longest
            )
        rows = memory.rows_per_pass(len(prompts), longest)
        if len(prompts) <= rows:
            return logits_of(prompts)

        def part_logits(_: torch.Tensor, part: slice) -> torch.Tensor:
            return logits_of(prompts.take(part))

        # `checkpoint` restores dropout's random state on the devices of its tensor arguments.
        device_tensor = torch.empty(0, device=self.device)
        return torch.cat(
            [
                checkpoint(
                    part_logits, device_tensor, slice(start, start + rows), use_reentrant=False
                )
                for start in range(0, len(prompts), rows)
            ]
        )

    @torch.inference_mode()
    def logits(self, prompts: PromptBatch, batch_size: int = 128) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) without gradients and dropout, in batches."""
        training = self.model.training
        self.model.eval()
        logits = self._in_batches(prompts, batch_size)
        self.model.train(training)
        return logits

    @torch.inference_mode()
    def score(
        self,
        user_attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes) for N candidates of one user.

        The history (its last ten events, oldest first) is read once, and its key/value cache serves
        all candidates.
        """
        if not candidates:
            return np.empty(0, dtype=np.float32)
        prompts = self.prompt.request(user_attributes, history, candidates)
        scores: NDArray[np.float32] = self.score_logits(prompts).softmax(1)[:, 0].numpy()
        return scores

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits of (Yes, No) for prompts of one user, with prefix caching."""
        shared = self.shared_length(prompts)
        if not shared:
            return self._in_batches(prompts, self.candidates_per_pass)
        prefix = DynamicCache(config=self.model.config)
        self._forward(prompts.take(slice(1)).columns(0, shared), prefix)
        parts, suffixes = [], prompts.columns(shared)
        for start in range(0, len(suffixes), self.candidates_per_pass):
            end = start + self.candidates_per_pass
            batch = suffixes.take(slice(start, end))
            # A pass writes into its cache, so that only the last pass may use the original.
            cache = copy.deepcopy(prefix) if end < len(suffixes) else prefix
            cache.batch_repeat_interleave(len(batch))
            parts.append(self._forward(batch, cache, shared))
        return torch.cat(parts)

    def _in_batches(self, prompts: PromptBatch, batch_size: int) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No), computed in batches of prompts of similar length.

        Halves the batch size when memory runs out; raises OutOfMemoryError at a batch of one.
        """
        order = prompts.lengths.argsort(stable=True)
        lengths = prompts.lengths[order].tolist()
        logits = torch.empty(len(prompts), 2)
        start = 0
        while start < len(order):
            limit = min(batch_size, self.memory.inference_rows or batch_size)
            rows = order[start : start + self._batch_length(lengths[start : start + limit])]
            batch_logits = attempt(partial(self.answer_logits, prompts.take(rows)))
            if batch_logits is None:
                self.memory.inference_rows = halved(len(rows))
                continue
            logits[rows] = batch_logits
            start += len(rows)
        return logits

    def _batch_length(self, lengths: Sequence[int]) -> int:
        """Return the number of prompts, of ascending lengths, that form the next batch."""
        is_text_on_cpu = self.device.type == "cpu" and not self.prompt.item_tokens
        tokens = BATCH_TOKENS_ON_CPU if is_text_on_cpu else BATCH_TOKENS
        return min(len(lengths), max(1, tokens // max(lengths[-1], 1)))

    def _forward(
        self, prompts: PromptBatch, cache: DynamicCache | None = None, past: int = 0
    ) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No), computing only these two rows of the head.

        `cache` holds `past` tokens before the prompts; the pass appends to it.
        """
        prompts = prompts.to(self.device)
        decoder = self.model.get_decoder()  # type: ignore[operator] # transformers is untyped
        hidden = decoder(
            input_ids=prompts.tokens,
            attention_mask=prepend_mask(past, prompts.mask),
            position_ids=past + prompts.positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state[torch.arange(len(prompts)), prompts.last]
        embedding = self.model.get_output_embeddings().weight  # type: ignore[operator]
        return to_cpu_float32(hidden @ embedding[list(self.prompt.answers)].T)


def to_cpu_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return logits as float32 on the CPU, whatever the model's precision and device."""
    return logits.float().cpu()


def prepend_mask(past: int, mask: torch.Tensor) -> torch.Tensor:
    """Return the [B, past + T] attention mask of [B, T] columns behind `past` cached tokens."""
    return torch.cat([mask.new_ones(len(mask), past), mask], dim=1) if past else mask
