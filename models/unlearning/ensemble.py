"""What SISA, RecEraser and APA share: train a member per shard, and again only where it must be.

Unlearning is exact, as in SISA (Bourtoule et al., arXiv 1912.03817). One rule decides: a member is
kept if, and only if, it is bit for bit what training on its shard's *retained* samples would give
(its seal says so); every other one is trained from scratch on them. Hence the result equals a
training of all shards without the person. Two things follow from that rule:

- members keep their last state: choosing one on validation would depend on the person's rows there;
- a sample's history holds the user's other items. Retained samples are built without what is
  forgotten, so a shard that loses no sample but has a history changed is trained again as well.

What is computed from all members (weights of an aggregation) is computed anew each time.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from models.recommender.ensemble import Ensemble, EnsembleConfig
from models.recommender.factory import build
from models.training.step import memory_report
from models.training.trainer import fit_from
from models.unlearning.base import NothingToForgetError, Unlearned, UnlearningMethod
from models.unlearning.sharding import shard_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.backbones.compact import BackboneConfig
    from models.data.forget_split import Prepared
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.training.trainer import Progress, TrainConfig
    from models.unlearning.base import UnlearningTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedConfig:
    """How many shards, and how long their members train: `passes` times the recipe's epochs.

    Passes were chosen on validation loss (ml-latest-small, paper split, one seed).
    """

    shards: int = 4
    passes: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """One shard as it should be: its retained samples, their prompts, and the member's recipe."""

    index: int
    prepared: Prepared
    recipe: TrainConfig

    @property
    def size(self) -> int:
        """Return the number of its samples."""
        return len(self.prepared.parts.train)


class ShardedMethod(UnlearningMethod):
    """A method is a partition, a way to train a member, and a way to make one answer of several."""

    exact = True
    aggregation: ClassVar[str]
    config: ShardedConfig

    def train(
        self, vocabulary: Vocabulary, prepared: Prepared, recipe: TrainConfig, progress: Progress
    ) -> Recommender:
        """Train every shard; raises DivergedError."""
        return self._build(vocabulary, prepared, recipe, None, progress)[0]

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train those shards again that the batch was in; all, from another kind of release.

        Where only the weights of answers knew the batch, no shard is trained again. Raises
        NothingToForgetError or DivergedError.
        """
        if not len(task.prepared.forget) and not (
            task.prepared.forget_valid and weighed(task.recommender.config)
        ):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        started = time.monotonic()
        vocabulary = task.recommender.vocabulary
        found, metrics = self._build(
            vocabulary, task.prepared, task.recipe, task.recommender, progress
        )
        return Unlearned(
            recommender=found,
            adapter=None,
            metrics={
                "forget_rows": len(task.prepared.forget),
                **metrics,
                "seconds": time.monotonic() - started,
                "config": asdict(self.config),
            },
        )

    @abstractmethod
    def partition(
        self, vocabulary: Vocabulary, prepared: Prepared, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        """Return [M] shards of the retained training samples."""

    def ensemble_config(self, recipe: TrainConfig) -> EnsembleConfig:
        """Return the ensemble before anything was trained."""
        return EnsembleConfig(
            aggregation=self.aggregation,
            member=recipe.backbone.seeded(recipe.seed),
            shards=self.config.shards,
        )

    def member_recipe(self, recipe: TrainConfig, shard: int) -> TrainConfig:
        """Return how a member is trained: as a release is, but to the last state."""
        seeded = recipe.seeded(recipe.seed * self.config.shards + shard)
        return replace(seeded, epochs=recipe.epochs * self.config.passes, validations=0)

    def new_member(self, vocabulary: Vocabulary, recipe: TrainConfig) -> Recommender:
        """Return a member before it was trained."""
        return build(vocabulary, recipe.backbone)

    def member_state(self, member: Recommender) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a trained member that are its shard's own."""
        return member.model.state_dict()

    def aggregate(self, ensemble: Ensemble, prepared: Prepared, recipe: TrainConfig) -> int:
        """Set what is computed from all members, in place; return how many parameters trained."""
        del ensemble, prepared, recipe
        return 0

    def _build(
        self,
        vocabulary: Vocabulary,
        prepared: Prepared,
        recipe: TrainConfig,
        parent: Recommender | None,
        progress: Progress,
    ) -> tuple[Ensemble, dict[str, Any]]:
        """Return the ensemble of the retained samples, with the parent's members where they fit."""
        ensemble = build(vocabulary, self.ensemble_config(recipe))
        if not isinstance(ensemble, Ensemble):
            raise TypeError(f"{self.aggregation} is no aggregation of an ensemble")
        shard_fingerprints: list[str] = []
        retrained: list[int] = []
        trained = done = 0
        shards = self._shards(vocabulary, prepared, recipe)
        total = max(1, len(prepared.parts.train))
        for shard in shards:
            state = self._kept(shard, ensemble, parent)
            if state is None and shard.size:
                report = _within(progress, done / total, shard.size / total)
                member = self.new_member(vocabulary, shard.recipe)
                member.memory = ensemble.memory  # What one of them learned of it holds for all.
                fit_from(member, shard.prepared, shard.recipe, report)
                state = self.member_state(member)
                retrained.append(shard.index)
                # A head that is tied to the embeddings is the same tensor under another name.
                trained += sum({t.data_ptr(): t.numel() for t in state.values()}.values())
            if state is not None:
                ensemble.load_shard(shard.index, state)
            shard_fingerprints.append(
                self._shard_fingerprint(shard, ensemble) if shard.size else ""
            )
            done += shard.size
        fingerprinted = ensemble.with_shard_fingerprints(shard_fingerprints)
        fingerprinted.model.eval()
        trained += self.aggregate(fingerprinted, prepared, recipe)
        fingerprinted.model.eval().requires_grad_(requires_grad=False)
        progress(1.0)
        return fingerprinted, {
            "shards": [shard.size for shard in shards],
            "shards_retrained": retrained,
            "trainable_parameters": trained,
            **memory_report(fingerprinted),
        }

    def _shards(
        self, vocabulary: Vocabulary, prepared: Prepared, recipe: TrainConfig
    ) -> list[_Shard]:
        belongs = self.partition(vocabulary, prepared, recipe)
        return [
            _Shard(
                index=index,
                prepared=_only(prepared, belongs == index),
                recipe=self.member_recipe(recipe, index),
            )
            for index in range(self.config.shards)
        ]

    def _kept(
        self, shard: _Shard, ensemble: Ensemble, parent: Recommender | None
    ) -> Mapping[str, torch.Tensor] | None:
        """Return the parent's member where it is what this shard would be trained to again."""
        if not isinstance(parent, Ensemble) or not shard.size:
            return None
        known = parent.config
        if known.fingerprinted(()) != ensemble.config or not known.shard_fingerprints:
            return None
        fits = self._shard_fingerprint(shard, parent) == known.shard_fingerprints[shard.index]
        return parent.shard_state(shard.index) if fits else None

    def _shard_fingerprint(self, shard: _Shard, ensemble: Ensemble) -> str:
        samples, data = shard.prepared.parts.train, shard.prepared.retained
        return shard_fingerprint(
            {
                "method": self.name,
                "config": asdict(self.config),
                "recipe": shard.recipe.manifest(),
                "vocabulary": ensemble.vocabulary.manifest(),
            },
            ensemble.prompt.samples(samples, data),
            torch.from_numpy(samples.label),
            ensemble.shard_state(shard.index),
        )


def weighed(config: BackboneConfig) -> bool:
    """Say whether a release of this kind knows validation rows, in how its answers are weighed."""
    return isinstance(config, EnsembleConfig) and config.has_learned_weights


def _only(prepared: Prepared, rows: NDArray[np.bool_]) -> Prepared:
    """Return the same data with these training samples alone."""
    parts = replace(prepared.parts, train=prepared.parts.train.take(np.asarray(rows)))
    return replace(prepared, parts=parts)


def _within(progress: Progress, start: float, share: float) -> Progress:
    """Return a progress that fills `share` of another one from `start` on."""

    def report(fraction: float) -> None:
        progress(start + fraction * share)

    return report
