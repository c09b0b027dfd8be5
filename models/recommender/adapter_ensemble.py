"""One shared base and one LoRA adapter per shard, mixed anew for every sample (APA).

The base keeps its initial weights: it never saw user data. A sample's weights come from how well
each adapter answered validation samples like it, and the adapters' *parameters* are added with
these weights, which for a low-rank layer is W x + Σ_k w_k B_k A_k x. PEFT can choose one adapter
per row of a batch, but not weigh several; hence layers of our own. Source: arXiv 2404.10327.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from models.backbones.lora import find_target_modules
from models.recommender.base import to_cpu_float32
from models.recommender.ensemble import Ensemble, input_table, mean_embedding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.recommender.ensemble import EnsembleConfig, MixtureConfig

#: The [B, K] weights of the forward pass that this thread is in; None: every adapter counts once.
_MIX: Final[ContextVar[torch.Tensor | None]] = ContextVar("mix", default=None)


@contextmanager
def mixed(weights: torch.Tensor | None) -> Iterator[None]:
    """Weigh the adapters of each of B samples by [B, K] weights until the block ends."""
    token = _MIX.set(weights)
    try:
        yield
    finally:
        _MIX.reset(token)


class MixedLinear(nn.Module):
    """A linear layer with K low-rank deltas: `down` [K, R, I], `up` [K, R, O]."""

    def __init__(self, base: nn.Linear | Conv1D, adapters: int, config: MixtureConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        # GPT-2's layers hold their weight the other way round.
        shape = base.weight.shape if isinstance(base, Conv1D) else base.weight.shape[::-1]
        down = torch.randn(config.rank, shape[0]) / shape[0] ** 0.5
        # All adapters start alike: only what grew from one beginning can be added up later.
        self.down = nn.Parameter(down.repeat(adapters, 1, 1))
        self.up = nn.Parameter(torch.zeros(adapters, config.rank, shape[1]))

    @property
    def weight(self) -> torch.Tensor:
        """Return the base's weight: T5 asks its layers for their precision."""
        return self.base.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the base's output and the weighted deltas'."""
        narrow = inputs @ self.down.flatten(0, 1).T
        found: torch.Tensor = self.base(inputs) + self.scale * _widen(narrow, self.up)
        return found


class MixedEmbedding(nn.Module):
    """An embedding with K low-rank deltas: `down` [K, V, R] and `up` [K, R, D].

    `down` starts at zero, so that a token that never occurs has no delta.
    """

    def __init__(self, base: nn.Embedding, adapters: int, config: MixtureConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        self.down = nn.Parameter(torch.zeros(adapters, base.num_embeddings, config.rank))
        up = torch.randn(config.rank, base.embedding_dim) * base.weight.std().cpu()
        self.up = nn.Parameter(up.repeat(adapters, 1, 1))

    @property
    def weight(self) -> torch.Tensor:
        """Return the base's table; the head is tied to it."""
        return self.base.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the base's rows and the weighted deltas'."""
        narrow = functional.embedding(tokens, self.down.transpose(0, 1).flatten(1))
        found: torch.Tensor = self.base(tokens) + self.scale * _widen(narrow, self.up)
        return found


def _widen(narrow: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return [B, T, O] from [B, T, K·R] and [K, R, O], under the weights of this forward pass."""
    weights = _MIX.get()
    if weights is not None:
        narrow = narrow * weights.repeat_interleave(up.shape[1], dim=1)[:, None]
    return narrow @ up.flatten(0, 1)


def install(base: Recommender, adapters: int, config: MixtureConfig, seed: int) -> Recommender:
    """Put fresh adapters on the layers that `config` names, in place; only they can be trained.

    Raises AdapterTargetError.
    """
    base.model.requires_grad_(requires_grad=False)
    roles = [role for role in config.targets if role != "embedding" or base.prompt.item_tokens]
    found = [
        (name, base.model.get_submodule(name)) for name in find_target_modules(base.model, roles)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in found:
            above, _, own = name.rpartition(".")
            wrapped = (
                MixedEmbedding(module, adapters, config)
                if isinstance(module, nn.Embedding)
                else MixedLinear(cast("nn.Linear | Conv1D", module), adapters, config)
            )
            # Drawn on the CPU, so that the numbers are the same everywhere.
            setattr(base.model.get_submodule(above), own, wrapped.to(base.device))
    return base


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapters' tensors by name; the first axis of each counts adapters."""
    return {
        f"{name}.{part}": getattr(module, part)
        for name, module in model.named_modules()
        if isinstance(module, MixedLinear | MixedEmbedding)
        for part in ("down", "up")
    }


class Routing(nn.Module):
    """How well each of K adapters does in each of M regions of the samples.

    Regions are seeded directions; nothing in here is of a single sample. `losses` [M, K] are means
    over validation samples, `centre` and `spread` [M] say where samples usually lie, `sharpness`
    how much better adapters are preferred (0: all alike).
    """

    directions: torch.Tensor
    #: The name is part of the weights file.
    centre: torch.Tensor
    spread: torch.Tensor
    losses: torch.Tensor
    sharpness: torch.Tensor

    def __init__(self, adapters: int, size: int, cells: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(cells, size, generator=generator)
        self.register_buffer("directions", functional.normalize(directions, dim=1))
        self.register_buffer("centre", torch.zeros(cells))
        self.register_buffer("spread", torch.ones(cells))
        self.register_buffer("losses", torch.zeros(cells, adapters))
        self.register_buffer("sharpness", torch.zeros(()))

    def similarity(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return [B, M]: how much each sample belongs to each region; each row sums to 1."""
        lies = functional.normalize(embedded, dim=1) @ self.directions.T
        return ((lies - self.centre) / self.spread).softmax(dim=1)

    def forward(self, embedded: torch.Tensor, live: Sequence[int]) -> torch.Tensor:
        """Return [B, K] weights from [B, D]; those of adapters that are not live are 0."""
        expected = self.similarity(embedded) @ self.losses
        absent = torch.full_like(expected, -torch.inf)
        absent[:, list(live)] = 0
        return (absent - self.sharpness * expected).softmax(dim=1)


class AdapterEnsemble(Ensemble):
    """A base with one adapter per shard, whose parameters are averaged per sample."""

    def __init__(self, vocabulary: Vocabulary, config: EnsembleConfig, base: Recommender) -> None:
        """Take a base with its initial weights, and put fresh adapters on it."""
        install(base, config.shards, config.mixture, config.seed)
        model = nn.Module()
        model.base = base.model
        size = input_table(base).shape[1]
        model.routing = Routing(config.shards, size, config.mixture.cells, config.seed)
        super().__init__(vocabulary, config, base, model)

    @property
    def routing(self) -> Routing:
        """Return the live table that a sample's weights are read from."""
        routing: Routing = self.model.routing  # type: ignore[assignment] # modules are untyped
        return routing

    def item_tables(self) -> list[torch.Tensor]:
        tables = self._base().item_tables()
        deltas = [
            module.down[shard]
            for module in self.model.modules()
            if isinstance(module, MixedEmbedding)
            for shard in range(self.config.shards)
        ]
        return [*tables, *deltas]

    def shard_state(self, shard: int) -> dict[str, torch.Tensor]:
        tensors = adapter_tensors(self._base().model)
        return {name: tensor.detach()[shard] for name, tensor in tensors.items()}

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        return self.logits_with(prompts, self.weights(prompts))

    def logits_with(self, prompts: PromptBatch, weights: torch.Tensor) -> torch.Tensor:
        """Return [B, 2] logits of the base with adapters mixed by [B, K] weights."""
        with mixed(weights.to(self.device)):
            return self._base().answer_logits(prompts)

    def weights(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, K] weights of the adapters; each row sums to 1."""
        embedded = self.embedded(prompts).to(self.device)
        return to_cpu_float32(self.routing(embedded, self.config.live()))

    def embedded(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, D]: what the base, which knows nobody, makes of a sample's tokens."""
        return mean_embedding(input_table(self._base()).detach(), prompts)

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits. Each candidate has parameters of its own: nothing is shared."""
        return self._in_batches(prompts, self.at_once)

    def _base(self) -> Recommender:
        base: nn.Module = self.model.base  # type: ignore[assignment] # modules are untyped
        return self._shell.with_model(base)
