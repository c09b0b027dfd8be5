"""SISA: shards by sample, members' logits averaged (Bourtoule et al., arXiv 1912.03817).

A baseline of E2URec's paper (arXiv 2403.03536), which averages logits over four shards. A sample's
shard is a hash of its user's and its item's id. So a person's samples are in all shards: forgetting
a person trains nearly everything again, and SISA is cheap for single interactions at best.
Exactness: `models.unlearning.ensemble`.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """Four shards, as in E2URec's paper."""


class Sisa(ShardedMethod):
    """One model per shard of samples; their logits have equal weights."""

    name = "sisa"
    root = "sisa"
    aggregation = MEAN

    def __init__(self, config: SisaConfig | None = None) -> None:
        """Use `config`, or four shards."""
        self.config = config or SisaConfig()

    def partition(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        del vocabulary
        return by_hash(prepared.parts.train, prepared.retained, recipe.seed, self.config.shards)
