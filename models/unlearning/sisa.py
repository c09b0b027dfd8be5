"""SISA: shards by sample, members' logits averaged (Bourtoule et al., arXiv 1912.03817).

A baseline of the E2URec paper (arXiv 2403.03536), which averages logits over four shards. A
sample's shard is a hash of its user's and its item's id, so that a user's samples are in all
shards. Forgetting a user therefore retrains nearly everything; SISA is cheap at best for single
interactions. `models.unlearning.ensemble` explains why the result is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.recommender.ensemble import MEAN
from models.unlearning.ensemble import ShardedConfig, ShardedMethod
from models.unlearning.sharding import by_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.prompts.vocabulary import Vocabulary
    from models.training.trainer import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SisaConfig(ShardedConfig):
    """Four shards, as in the E2URec paper."""


@dataclass(frozen=True)
class Sisa(ShardedMethod):
    """Train one model per shard of samples; the models' logits have equal weights."""

    name = "sisa"
    root = "sisa"
    aggregation = MEAN
    config: SisaConfig = field(default_factory=SisaConfig)

    def partition(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        del vocabulary
        return by_hash(prepared.parts.train, prepared.retained, recipe.seed, self.config.shards)
