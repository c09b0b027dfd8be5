"""RecEraser: shards by groups of like-minded users, answers weighted by a learned attention.

Chen et al., WWW 2022 (arXiv 2201.06820). Their partition is a balanced k-means of embeddings that
were trained on everybody, which is not exact: centres and groups remember who was forgotten. Here a
user's features come from their own ratings alone, the centres are fixed random directions, and what
balances the groups is computed anew from the retained data (`models.unlearning.sharding`).
The attention is trained anew, too: on retained samples, its best state chosen on validation, where
equal weights are the first state. It weighs logits; the published one weighs embeddings that a
linear layer then reads, which a language model's members have no common space for.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

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
    """The attention's training: `steps` of AdamW, and how often validation is looked at."""

    passes: int = 1
    steps: int = 300
    batch_size: int = 256
    learning_rate: float = 3e-3
    evaluations: int = 10
    #: So many retained samples, drawn at random, are enough for so few weights.
    most_rows: int = 6_000


class RecEraser(ShardedMethod):
    """One model per group of users, and an attention over the models."""

    name = "receraser"
    root = "receraser"
    aggregation = ATTENTION
    config: RecEraserConfig

    def __init__(self, config: RecEraserConfig | None = None) -> None:
        """Use `config`, or four groups."""
        self.config = config or RecEraserConfig()

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
        """Train the attention while the members stand still."""
        if not isinstance(ensemble, OutputEnsemble):
            raise TypeError("RecEraser weighs the members' outputs")
        attention: nn.Module = ensemble.model.attention  # type: ignore[assignment] # untyped
        train, valid = (
            _Answers(ensemble, prepared, samples, self.config.most_rows, recipe.seed)
            for samples in (prepared.parts.train, prepared.parts.valid)
        )
        if not len(train.labels) or not len(valid.labels):
            return 0
        config = self.config
        attention.requires_grad_(requires_grad=True)
        optimizer = torch.optim.AdamW(attention.parameters(), lr=config.learning_rate)
        order = Order(len(train.labels), recipe.seed)
        every = max(1, config.steps // config.evaluations)
        best, state = valid.loss(ensemble).item(), copy.deepcopy(attention.state_dict())
        for step in range(1, config.steps + 1):
            rows = order.draw(config.batch_size)
            take_step(ensemble, optimizer, partial(train.loss, ensemble, rows))
            if step % every == 0:
                with torch.no_grad():
                    found = valid.loss(ensemble).item()
                if found < best:
                    best, state = found, copy.deepcopy(attention.state_dict())
        attention.load_state_dict(state)
        return sum(p.numel() for p in attention.parameters())


class _Answers:
    """What the members say of samples and how they embed them: constants of the attention."""

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
        """Return the mean log loss (nats) of the ensemble on these rows, or on all."""
        chosen = slice(None) if rows is None else rows
        logits = average(self.logits[chosen], ensemble.attend(self.embedded[chosen]))
        found = logits[:, 0] - logits[:, 1]
        return functional.binary_cross_entropy_with_logits(found, self.labels[chosen])


@torch.no_grad()
def _constants(
    ensemble: OutputEnsemble, prompts: PromptBatch, batch_size: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [
        (ensemble.embedded(batch), ensemble.member_logits(batch))
        for batch in map(prompts.take, torch.split(torch.arange(len(prompts)), batch_size))
        if len(batch)
    ]
    if not parts:
        return torch.empty(0), torch.empty(0)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
