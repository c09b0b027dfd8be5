"""Combine one base and one LoRA adapter per shard by weighting adapters per sample (APA).

The base keeps its initial weights and has never seen user data. The weights of a sample come from
the adapters' losses on similar validation samples. The adapters' parameters are added with these
weights: a low-rank layer computes W x + Σ_k w_k B_k A_k x. PEFT can select one adapter per row of a
batch but not weight several, so that this module has its own layers. Source: arXiv 2404.10327.
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

#: The [B, K] adapter weights of the forward pass on this thread; None: weight 1 for each adapter.
_WEIGHTS: Final[ContextVar[torch.Tensor | None]] = ContextVar("adapter_weights", default=None)


@contextmanager
def adapter_weights(weights: torch.Tensor | None) -> Iterator[None]:
    """Weight the K adapters for each of B samples by [B, K] weights within the block."""
    token = _WEIGHTS.set(weights)
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


class MixedLinear(nn.Module):
    """A linear layer with K low-rank deltas: `down` [K, R, I], `up` [K, R, O]."""

    def __init__(self, base: nn.Linear | Conv1D, adapters: int, config: MixtureConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        # Conv1D (GPT-2) stores the transposed weight.
        shape = base.weight.shape if isinstance(base, Conv1D) else base.weight.shape[::-1]
        down = torch.randn(config.rank, shape[0]) / shape[0] ** 0.5
        # All adapters start from the same values, because only then can parameters be averaged.
        self.down = nn.Parameter(down.repeat(adapters, 1, 1))
        self.up = nn.Parameter(torch.zeros(adapters, config.rank, shape[1]))

    @property
    def weight(self) -> torch.Tensor:
        """Return the base's weight, from which T5 reads the precision of its layers."""
        return self.base.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the base's output plus the weighted deltas."""
        narrow = inputs @ self.down.flatten(0, 1).T
        output: torch.Tensor = self.base(inputs) + self.scale * _widen(narrow, self.up)
        return output


class MixedEmbedding(nn.Module):
    """An embedding with K low-rank deltas: `down` [K, V, R] and `up` [K, R, D].

    `down` starts at zero, so that tokens absent from training keep a delta of zero.
    """

    def __init__(self, base: nn.Embedding, adapters: int, config: MixtureConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        self.down = nn.Parameter(torch.zeros(adapters, base.num_embeddings, config.rank))
        up = torch.randn(config.rank, base.embedding_dim) * base.weight.std().cpu()
        self.up = nn.Parameter(up.repeat(adapters, 1, 1))

    @property
    def weight(self) -> torch.Tensor:
        """Return the base's embeddings, to which the head is tied."""
        return self.base.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the base's rows plus the weighted deltas."""
        narrow = functional.embedding(tokens, self.down.transpose(0, 1).flatten(1))
        output: torch.Tensor = self.base(tokens) + self.scale * _widen(narrow, self.up)
        return output


def _widen(narrow: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return [B, T, O] from [B, T, K·R] and [K, R, O], weighted by `adapter_weights`."""
    weights = _WEIGHTS.get()
    if weights is not None:
        narrow = narrow * weights.repeat_interleave(up.shape[1], dim=1)[:, None]
    return narrow @ up.flatten(0, 1)


def add_shard_adapters(
    base: Recommender, adapters: int, config: MixtureConfig, seed: int
) -> Recommender:
    """Add new adapters to the layers in `config.targets`, in place, and freeze the base.

    Raises AdapterTargetError.
    """
    base.model.requires_grad_(requires_grad=False)
    roles = [role for role in config.targets if role != "embedding" or base.prompt.item_tokens]
    names = find_target_modules(base.model, roles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            module = base.model.get_submodule(name)
            parent, _, attribute = name.rpartition(".")
            wrapped = (
                MixedEmbedding(module, adapters, config)
                if isinstance(module, nn.Embedding)
                else MixedLinear(cast("nn.Linear | Conv1D", module), adapters, config)
            )
            # Initial values are drawn on the CPU, so that they are the same for every device.
            setattr(base.model.get_submodule(parent), attribute, wrapped.to(base.device))
    return base


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapters' tensors by name; the first axis of each is the adapter."""
    return {
        f"{name}.{part}": getattr(module, part)
        for name, module in model.named_modules()
        if isinstance(module, MixedLinear | MixedEmbedding)
        for part in ("down", "up")
    }


class Routing(nn.Module):
    """Mean losses of K adapters in M regions of the sample space, from which weights follow.

    Regions are directions from a seed; no tensor stores a single sample. `losses` [M, K]: means
    over validation samples. `centre` and `spread` [M]: location and scale of the projections.
    `sharpness`: how strongly better adapters are preferred (0: equal weights).
    """

    directions: torch.Tensor
    #: The name is stored in the weights file.
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
        """Return [B, M]: the membership of each sample in each region; rows sum to 1."""
        projections = functional.normalize(embedded, dim=1) @ self.directions.T
        return ((projections - self.centre) / self.spread).softmax(dim=1)

    def forward(self, embedded: torch.Tensor, live: Sequence[int]) -> torch.Tensor:
        """Return [B, K] weights for sample embeddings [B, D]; 0 for adapters not in `live`."""
        expected = self.similarity(embedded) @ self.losses
        absent = torch.full_like(expected, -torch.inf)
        absent[:, list(live)] = 0
        return (absent - self.sharpness * expected).softmax(dim=1)


class AdapterEnsemble(Ensemble):
    """A base with one adapter per shard; adapters are weighted per sample."""

    def __init__(self, vocabulary: Vocabulary, config: EnsembleConfig, base: Recommender) -> None:
        """Take a base with its initial weights, and add new adapters to it, in place."""
        add_shard_adapters(base, config.shards, config.mixture, config.seed)
        model = nn.Module()
        model.base = base.model
        size = input_table(base).shape[1]
        model.routing = Routing(config.shards, size, config.mixture.cells, config.seed)
        super().__init__(vocabulary, config, base, model)

    @property
    def routing(self) -> Routing:
        """Return the module that computes the weights of samples."""
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
        """Return [B, 2] logits of (Yes, No) with the adapters weighted by [B, K] weights."""
        with adapter_weights(weights.to(self.device)):
            return self._base().answer_logits(prompts)

    def weights(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, K] weights of the adapters; rows sum to 1."""
        embedded = self.embedded(prompts).to(self.device)
        return to_cpu_float32(self.routing(embedded, self.config.live_shards()))

    def embedded(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, D]: the base's mean input embedding over the tokens of each prompt."""
        return mean_embedding(input_table(self._base()).detach(), prompts)

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits; without prefix caching, because weights differ per candidate."""
        return self._in_batches(prompts, self.candidates_per_pass)

    def _base(self) -> Recommender:
        base: nn.Module = self.model.base  # type: ignore[assignment] # modules are untyped
        return self._shell.with_model(base)
