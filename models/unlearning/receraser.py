"""RecEraser: shards by groups of users with similar taste, answers weighted by a learned attention.

Chen et al., WWW 2022 (arXiv 2201.06820). The published partition is a balanced k-means of
embeddings that were trained on all users. That is not exact, because the cluster centers and groups
depend on forgotten users. Here a user's features come from the user's own ratings alone, the
centers are fixed random directions, and the groups are balanced from the retained data in every job
(`models.unlearning.sharding`).

The attention is also trained again in every job, on retained samples. The state with the lowest
validation loss is kept; the first state has equal weights. The attention weighs logits. The
published attention weighs embeddings, for which the members of a language model have no common
space.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from models.recommender.ensemble import ATTENTION, OutputEnsemble, average
from models.training.step import take_step
from models.unlearning.ensemble import ShardedConfig, ShardedMethod
from models.unlearning.finetuning import Order
from models.unlearning.sharding import balanced, tastes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.ensemble import Ensemble
    from models.training.trainer import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RecEraserConfig(ShardedConfig):
    """The attention's training: `steps` of AdamW, with `evaluations` on validation rows."""

    passes: int = 1
    steps: int = 300
    batch_size: int = 256
    learning_rate: float = 3e-3
    evaluations: int = 10
    #: Maximum number of retained samples, drawn at random; the attention has few weights.
    most_rows: int = 6_000

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values; shard fingerprints cover the stored names."""
        # Zero-argument super() does not work in a dataclass with slots.
        values = ShardedConfig.manifest(self)
        values["looks"] = values.pop("evaluations")
        return values


@dataclass(frozen=True)
class RecEraser(ShardedMethod):
    """Train one model per group of users, and an attention over the models."""

    name = "receraser"
    root = "receraser"
    aggregation = ATTENTION
    config: RecEraserConfig = field(default_factory=RecEraserConfig)

    def partition(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        del vocabulary
        features, _ = tastes(prepared.retained, prepared.bounds.valid_from, recipe.seed)
        users, samples = np.unique(prepared.parts.train.user, return_counts=True)
        groups = np.zeros(len(features), dtype=np.int64)
        groups[users] = balanced(features[users], samples, recipe.seed, self.config.shards)
        return groups[prepared.parts.train.user]

    def aggregate(self, ensemble: Ensemble, prepared: ForgetSplit, recipe: TrainConfig) -> int:
        """Train the attention on constant members; return its number of parameters."""
        if not isinstance(ensemble, OutputEnsemble):
            raise TypeError("RecEraser needs an OutputEnsemble")
        attention: nn.Module = ensemble.model.attention  # type: ignore[assignment] # untyped
        train, valid = (
            _MemberAnswers(ensemble, prepared, samples, self.config.most_rows, recipe.seed)
            for samples in (prepared.parts.train, prepared.parts.valid)
        )
        if not len(train.labels) or not len(valid.labels):
            return 0
        config = self.config
        attention.requires_grad_(requires_grad=True)
        optimizer = torch.optim.AdamW(attention.parameters(), lr=config.learning_rate)
        order = Order(len(train.labels), recipe.seed)
        evaluate_every = max(1, config.steps // config.evaluations)
        best_loss, best_state = valid.loss(ensemble).item(), copy.deepcopy(attention.state_dict())
        for step in range(1, config.steps + 1):
            rows = order.draw(config.batch_size)
            take_step(ensemble, optimizer, partial(train.loss, ensemble, rows))
            if step % evaluate_every == 0:
                with torch.no_grad():
                    valid_loss = valid.loss(ensemble).item()
                if valid_loss < best_loss:
                    best_loss, best_state = valid_loss, copy.deepcopy(attention.state_dict())
        attention.load_state_dict(best_state)
        return sum(p.numel() for p in attention.parameters())


class _MemberAnswers:
    """The members' embeddings and logits of samples, which are constants of the attention."""

    def __init__(
        self,
        ensemble: OutputEnsemble,
        prepared: ForgetSplit,
        samples: Samples,
        most: int,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(samples), generator=generator)[:most]
        drawn = samples.take(rows.numpy())
        prompts = ensemble.prompt.samples(drawn, prepared.retained)
        self.labels = torch.from_numpy(drawn.label)
        self.embedded, self.logits = _constants(ensemble, prompts)

    def loss(self, ensemble: OutputEnsemble, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return the ensemble's mean log loss (nats) on these rows, or on all rows."""
        selected = slice(None) if rows is None else rows
        logits = average(self.logits[selected], ensemble.attend(self.embedded[selected]))
        margins = logits[:, 0] - logits[:, 1]
        return functional.binary_cross_entropy_with_logits(margins, self.labels[selected])


@torch.no_grad()
def _constants(ensemble: OutputEnsemble, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the members' embeddings and logits of all prompts."""
    parts = [
        (ensemble.embedded(batch), ensemble.member_logits(batch))
        for batch in map(prompts.take, torch.split(torch.arange(len(prompts)), 1024))
        if len(batch)
    ]
    if not parts:
        return torch.empty(0), torch.empty(0)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
