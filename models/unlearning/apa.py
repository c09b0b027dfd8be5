"""APA: one LoRA adapter per shard on a base that never saw user data, mixed for every sample.

Hu et al., "Exact and Efficient Unlearning for Large Language Model-based Recommendation" (arXiv
2404.10327). Samples are partitioned by the base's mean input embedding of their prompt. The
published partition learns its centers from the data; here the centers are fixed random directions
(`models.unlearning.sharding`), so that forgetting is exact.

The adapters' weights for a sample come from their losses on similar validation samples. The
published method stores those samples. A release must not contain user data, so that mean losses
over regions of the embedding space are stored instead.

The base is the backbone with its *initial* weights: the published weights of a pretrained model, or
random weights of a compact model, which adapters alone do not fully train (docs/methods.md).
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

#: Candidate slopes of an adapter's log weight per nat of validation loss, from equal weights to
#: nearly the best adapter alone. The choice is made on validation rows.
SHARPNESS: Final = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: Pseudo-count of samples with the overall mean loss in each region's mean loss.
DAMPING: Final = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApaConfig(ShardedConfig):
    """The adapters' shape: all layers and the embeddings, because a compact base is random.

    On ml-latest-small (paper split, one seed, two passes) validation AUC is .766 and the plain
    model's .772; one adapter alone has .751 to .759.
    """

    mixture: MixtureConfig = field(
        default_factory=lambda: MixtureConfig(rank=16, alpha=32, targets=ROLES)
    )


@dataclass(frozen=True)
class Apa(ShardedMethod):
    """Train one adapter per shard of samples; every sample uses a weighted sum of the adapters."""

    name = "apa"
    root = "apa"
    aggregation = ADAPTERS
    config: ApaConfig = field(default_factory=ApaConfig)

    def ensemble_config(self, recipe: TrainConfig) -> EnsembleConfig:
        return replace(super().ensemble_config(recipe), mixture=self.config.mixture)

    def member_recipe(self, recipe: TrainConfig, shard: int) -> TrainConfig:
        """Return a shard's recipe: its seed orders the rows, but all members have the same base."""
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
        """Return the shared base with one fresh adapter."""
        base = build(vocabulary, recipe.backbone)
        return add_shard_adapters(base, 1, self.config.mixture, recipe.backbone.seed)

    def member_state(self, member: Recommender) -> Mapping[str, torch.Tensor]:
        return {name: p.detach()[0] for name, p in adapter_tensors(member.model).items()}

    def aggregate(self, ensemble: Ensemble, prepared: ForgetSplit, recipe: TrainConfig) -> int:
        """Fill the routing table from validation rows; no parameter trains."""
        del recipe
        if not isinstance(ensemble, AdapterEnsemble):
            raise TypeError("APA needs an AdapterEnsemble")
        samples = prepared.parts.valid
        if len(samples):
            prompts = ensemble.prompt.samples(samples, prepared.retained)
            _route(ensemble, prompts, torch.from_numpy(samples.label))
        return 0


@torch.no_grad()
def _route(ensemble: AdapterEnsemble, prompts: PromptBatch, labels: torch.Tensor) -> None:
    """Fill the routing table from validation prompts, and choose its sharpness on them."""
    routing, shards = ensemble.routing, ensemble.config.shards
    embedded = ensemble.embedded(prompts).to(ensemble.device)
    projected = functional.normalize(embedded, dim=1) @ routing.directions.T
    routing.centre.copy_(projected.mean(dim=0))
    routing.spread.copy_(projected.std(dim=0, correction=0).clamp_min(1e-6))
    single = torch.eye(shards)
    losses = torch.stack(
        [_losses(ensemble, prompts, labels, single[shard]) for shard in range(shards)], dim=1
    ).to(ensemble.device)
    similarity = routing.similarity(embedded)
    overall = losses.mean(dim=0)
    routing.losses.copy_(
        (similarity.T @ losses + DAMPING * overall) / (similarity.sum(dim=0)[:, None] + DAMPING)
    )
    mean_losses = {}
    for sharpness in SHARPNESS:
        routing.sharpness.fill_(sharpness)
        mean_losses[sharpness] = _losses(ensemble, prompts, labels, None).mean().item()
    routing.sharpness.fill_(min(mean_losses, key=lambda sharpness: mean_losses[sharpness]))


def _losses(
    ensemble: AdapterEnsemble,
    prompts: PromptBatch,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Return [B] log losses (nats) with [K] weights, or with each sample's own weights (None)."""
    parts = []
    for rows in torch.split(torch.arange(len(prompts)), 1024):
        batch = prompts.take(rows)
        mixed = ensemble.weights(batch) if weights is None else weights.expand(len(batch), -1)
        logits = ensemble.logits_with(batch, mixed)
        parts.append(
            functional.binary_cross_entropy_with_logits(
                logits[:, 0] - logits[:, 1], labels[rows], reduction="none"
            )
        )
    return torch.cat(parts)
