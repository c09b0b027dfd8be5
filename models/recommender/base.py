"""The recommender: will this user like this item? P(Yes) against No at the answer position.

One forward interface over the backbone. Training, unlearning, auditing and serving all use it.
The class here serves compact causal models; `models.recommender.language` has the others.
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
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from models.backbones.compact import BackboneConfig
    from models.inference.shared_prefix import Reader
    from models.prompts.compact_prompt import Prompt
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.scoring_inputs import Candidate, HistoryEvent
    from models.prompts.vocabulary import Vocabulary

#: So many tokens in one batch without gradients: long prompts go in smaller batches.
TOKENS_AT_ONCE: Final = 32_768
#: As many as a layer's activations may have without leaving the caches of a CPU: SmolLM2 reads
#: prompts of 200 tokens in .24 s each eight at a time, and in .65 s each 64 at a time.
TOKENS_AT_ONCE_ON_CPU: Final = 2_048


class Recommender:
    """A backbone, its vocabulary and its prompt. Scoring is a pure read and thread-safe."""

    #: Candidates that are scored in one pass, each with its copy of the history's cache.
    at_once: ClassVar[int] = 1024

    def __init__(
        self,
        vocabulary: Vocabulary,
        config: BackboneConfig,
        model: nn.Module | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        """Take a model (possibly wrapped by PEFT), or build a compact one with its initial weights.

        Raises UnknownBackboneError where another kind is to be built: `assembly.build` does that.
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

    #: The public model that this one's adapter stands on, kept for others to share.
    public: nn.Module | None = None

    def with_model(self, model: nn.Module) -> Self:
        """Return a recommender of the same kind around another model."""
        found = copy.copy(self)
        found.model = model
        found.memory = Memory()
        return found

    @property
    def device(self) -> torch.device:
        """Return where the model is. Prompts come from the CPU, and answers go back there."""
        return next(self.model.parameters()).device

    def reader(self) -> Reader | None:
        """Return what reads histories once and candidates behind them, for models it knows.

        It is made of the weights as they are now.
        """
        if not isinstance(self.config, CompactConfig):
            return None
        return CompactReader.of(self.model, self.prompt.answers, self.prompt.golden, self.logits)

    def shared(self, prompts: PromptBatch) -> int:
        """Return how many first columns this model may read once for all prompts."""
        return prompts.shared_length()

    def item_tables(self) -> list[torch.Tensor]:
        """Return every weight that has one row per token, items among them, as live views.

        None where items are words: their rows belong to nobody.
        """
        if not self.prompt.item_tokens:
            return []
        weight: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return [weight]

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits of (Yes, No) for B prompts; gradients flow where enabled."""
        return self._forward(prompts)

    def live_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, 2] logits with gradients, in parts that fit into memory where not all do.

        What a part computed is computed again in the backward pass, so that only one part's
        activations live at once.
        """
        memory, lengths = self.memory, prompts.lengths
        memory.last_batch_rows = len(prompts)
        longest = int(lengths.max()) if len(prompts) else 0
        if memory.training_tokens is None and self.device.type == "cpu" and len(prompts) > 1:
            one = prompts.take(lengths.argmax()[None])
            memory.training_tokens = tokens_that_fit(
                self.model, partial(self.answer_logits, one), longest
            )
        rows = memory.rows_per_pass(len(prompts), longest)
        if len(prompts) <= rows:
            return self.answer_logits(prompts)

        def answers(_: torch.Tensor, part: slice) -> torch.Tensor:
            return self.answer_logits(prompts.take(part))

        # A tensor of the device tells `checkpoint` whose random state dropout draws from.
        here = torch.empty(0, device=self.device)
        return torch.cat(
            [
                checkpoint(answers, here, slice(start, start + rows), use_reentrant=False)
                for start in range(0, len(prompts), rows)
            ]
        )

    @torch.inference_mode()
    def logits(self, prompts: PromptBatch, batch_size: int = 128) -> torch.Tensor:
        """Return [B, 2] logits without gradients, dropout off, in batches of similar length."""
        training = self.model.training
        self.model.eval()
        found = self._in_batches(prompts, batch_size)
        self.model.train(training)
        return found

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
        prompts = self.prompt.request(user_attributes, history, candidates)
        scores: NDArray[np.float32] = self.score_logits(prompts).softmax(1)[:, 0].numpy()
        return scores

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits of prompts that share their first columns."""
        shared = self.shared_length(prompts)
        if not shared:
            return self._in_batches(prompts, self.at_once)
        prefix = DynamicCache(config=self.model.config)
        self._forward(prompts.take(slice(1)).columns(0, shared), prefix)
        parts, rest = [], prompts.columns(shared)
        for start in range(0, len(rest), self.at_once):
            few = rest.take(slice(start, start + self.at_once))
            # A pass writes into its cache: the last one may have the original.
            cache = copy.deepcopy(prefix) if start + self.at_once < len(rest) else prefix
            cache.batch_repeat_interleave(len(few))
            parts.append(self._forward(few, cache, shared))
        return torch.cat(parts)

    def _in_batches(self, prompts: PromptBatch, batch_size: int) -> torch.Tensor:
        """Return [B, 2] logits, computed in batches of prompts of similar length.

        Batches halve where memory runs out; raises OutOfMemoryError where one prompt is too much.
        """
        order = prompts.lengths.argsort(stable=True)
        lengths = prompts.lengths[order].tolist()
        found = torch.empty(len(prompts), 2)
        start = 0
        while start < len(order):
            most = min(batch_size, self.memory.inference_rows or batch_size)
            rows = order[start : start + self._fitting(lengths[start : start + most])]
            answers = attempt(partial(self.answer_logits, prompts.take(rows)))
            if answers is None:
                self.memory.inference_rows = halved(len(rows))
                continue
            found[rows] = answers
            start += len(rows)
        return found

    def _fitting(self, lengths: Sequence[int]) -> int:
        """Return how many prompts, of rising lengths, go in one batch."""
        long = self.device.type == "cpu" and not self.prompt.item_tokens
        tokens = TOKENS_AT_ONCE_ON_CPU if long else TOKENS_AT_ONCE
        return min(len(lengths), max(1, tokens // max(lengths[-1], 1)))

    def _forward(
        self, prompts: PromptBatch, cache: DynamicCache | None = None, past: int = 0
    ) -> torch.Tensor:
        """Return [B, 2] answer logits, after the `past` tokens of a cache that this fills further.

        Only the two answer rows of the head are computed.
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
    """Return logits as everybody but the model wants them: float32, on the CPU."""
    return logits.float().cpu()


def prepend_mask(past: int, mask: torch.Tensor) -> torch.Tensor:
    """Return the [B, past + T] mask of [B, T] columns after `past` tokens that are all there."""
    return torch.cat([mask.new_ones(len(mask), past), mask], dim=1) if past else mask
