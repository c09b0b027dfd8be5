"""APA: one LoRA adapter per shard on a base that never saw user data, mixed for every sample.

Hu et al., "Exact and Efficient Unlearning for Large Language Model-based Recommendation" (arXiv
2404.10327). Samples are partitioned by what they say: the base's mean input embedding of a prompt.
The published partition learns its centres from the data; here they are fixed random directions, as
in `models.unlearning.sharding`, so that forgetting is exact. A sample's weights come from how well
each adapter answers validation samples like it. The published method keeps those samples; an
artefact must not hold anybody's, so that means over regions are kept instead.
The base is the backbone's *initial* weights: for a pretrained model those of its authors, for the
compact one random, which adapters alone turn into a recommender only partly (docs/methods.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from models.backbones.lora import ROLES
from models.recommender.adapter_ensemble import AdapterEnsemble, adapter_tensors, add_shard_adapters
from models.recommender.ensemble import (
    ADAPTERS,
    EnsembleConfig,
    MixtureConfig,
    input_table,
    mean_embedding,
)
from models.recommender.factory import build
from models.unlearning.ensemble import ShardedConfig, ShardedMethod
from models.unlearning.sharding import balanced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.recommender.ensemble import Ensemble
    from models.training.trainer import TrainConfig

#: How much better adapters may be preferred, from not at all to nearly the best one alone; in
#: weights per nat of validation loss. Which one is chosen on validation.
SHARPNESS: Final = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: A region's mean loss counts as if it had so many more samples with the mean of all.
DAMPING: Final = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApaConfig(ShardedConfig):
    """The adapters' shape: all layers and the embeddings, which a random base needs.

    On ml-latest-small (paper split, one seed, two passes) validation AUC is .766 and the plain
    model's .772; one adapter alone has .751 to .759.
    """

    mixture: MixtureConfig = field(
        default_factory=lambda: MixtureConfig(rank=16, alpha=32, targets=ROLES)
    )


class Apa(ShardedMethod):
    """One adapter per shard of samples; a sample's parameters are a weighted sum of them."""

    name = "apa"
    root = "apa"
    aggregation = ADAPTERS
    config: ApaConfig

    def __init__(self, config: ApaConfig | None = None) -> None:
        """Use `config`, or four adapters."""
        self.config = config or ApaConfig()

    def ensemble_config(self, recipe: TrainConfig) -> EnsembleConfig:
        return EnsembleConfig(
            aggregation=self.aggregation,
            member=recipe.backbone.seeded(recipe.seed),
            shards=self.config.shards,
            mixture=self.config.mixture,
        )

    def member_recipe(self, recipe: TrainConfig, shard: int) -> TrainConfig:
        """Return the order of rows of one shard; the base is the same for all."""
        member = super().member_recipe(recipe, shard)
        return replace(member, backbone=recipe.backbone.seeded(recipe.seed))

    def partition(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        base = build(vocabulary, recipe.backbone.seeded(recipe.seed))
        prompts = base.prompt.samples(prepared.parts.train, prepared.retained)
        table = input_table(base).detach()
        parts = [
            functional.normalize(mean_embedding(table, prompts.take(rows)), dim=1).numpy()
            for rows in torch.split(torch.arange(len(prompts)), 4096)
        ]
        features = np.concatenate(parts).astype(np.float64)
        return balanced(features, np.ones(len(features)), recipe.seed, self.config.shards)

    def new_member(self, vocabulary: Vocabulary, recipe: TrainConfig) -> Recommender:
        """Return the base that all share, with one fresh adapter."""
        base = build(vocabulary, recipe.backbone)
        return add_shard_adapters(base, 1, self.config.mixture, recipe.backbone.seed)

    def member_state(self, member: Recommender) -> Mapping[str, torch.Tensor]:
        return {name: p.detach()[0] for name, p in adapter_tensors(member.model).items()}

    def aggregate(self, ensemble: Ensemble, prepared: ForgetSplit, recipe: TrainConfig) -> int:
        """Measure every adapter on validation, and choose how much that shall count."""
        del recipe
        if not isinstance(ensemble, AdapterEnsemble):
            raise TypeError("APA mixes adapters")
        samples = prepared.parts.valid
        if len(samples):
            prompts = ensemble.prompt.samples(samples, prepared.retained)
            _route(ensemble, prompts, torch.from_numpy(samples.label))
        return 0


@torch.no_grad()
def _route(ensemble: AdapterEnsemble, prompts: PromptBatch, labels: torch.Tensor) -> None:
    """Fill the routing table from validation samples, and choose its sharpness on them."""
    routing, shards = ensemble.routing, ensemble.config.shards
    embedded = ensemble.embedded(prompts).to(ensemble.device)
    lies = functional.normalize(embedded, dim=1) @ routing.directions.T
    routing.centre.copy_(lies.mean(dim=0))
    routing.spread.copy_(lies.std(dim=0, correction=0).clamp_min(1e-6))
    alone = torch.eye(shards)
    losses = torch.stack(
        [_losses(ensemble, prompts, labels, alone[shard]) for shard in range(shards)], dim=1
    ).to(ensemble.device)
    near = routing.similarity(embedded)
    overall = losses.mean(dim=0)
    routing.losses.copy_(
        (near.T @ losses + DAMPING * overall) / (near.sum(dim=0)[:, None] + DAMPING)
    )
    found = {}
    for sharpness in SHARPNESS:
        routing.sharpness.fill_(sharpness)
        found[sharpness] = _losses(ensemble, prompts, labels, None).mean().item()
    routing.sharpness.fill_(min(found, key=lambda sharpness: found[sharpness]))


def _losses(
    ensemble: AdapterEnsemble,
    prompts: PromptBatch,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Return [B] log losses (nats) with these [K] weights for all samples, or with their own."""
    parts = []
    for rows in torch.split(torch.arange(len(prompts)), 1024):
        batch = prompts.take(rows)
        own = ensemble.weights(batch) if weights is None else weights.expand(len(batch), -1)
        logits = ensemble.logits_with(batch, own)
        parts.append(
            functional.binary_cross_entropy_with_logits(
                logits[:, 0] - logits[:, 1], labels[rows], reduction="none"
            )
        )
    return torch.cat(parts)
