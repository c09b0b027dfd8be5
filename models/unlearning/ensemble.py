"""Train one member per shard, and retrain only changed shards: the base of SISA, RecEraser and APA.

Unlearning is exact, as in SISA (Bourtoule et al., arXiv 1912.03817). A member is kept if and only
if it equals, bit for bit, the result of training on its shard's *retained* samples, which its shard
fingerprint proves. Every other member is trained from scratch on the retained samples. Hence the
result equals a training of all shards without the forgotten data. This rule has three consequences:

- Members keep their last state, because choosing a state on validation rows would depend on
  forgotten validation rows.
- A sample's history contains the user's other items. Retained samples are built without the
  forgotten interactions, so that a shard with only a changed history is also retrained.
- Nothing that the parent's manifest states is an input: the vocabulary is built from the retained
  data, and the caller chooses new time bounds on them. Where the vocabulary changes, all members
  are retrained; where a bound moves, the members whose rows it moves.

Whatever is computed from all members (an attention, a routing table) is computed again every time.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from models.prompts.vocabulary import Vocabulary
from models.recommender.ensemble import Ensemble, EnsembleConfig
from models.recommender.factory import build
from models.training.step import memory_report
from models.training.trainer import fit_from
from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.sharding import shard_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.backbones.compact import BackboneConfig
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedConfig:
    """The number of shards; members train for `passes` times the recipe's epochs.

    The passes were chosen on validation loss (ml-latest-small, paper split, one seed).
    """

    shards: int = 4
    passes: int = 2

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values; shard fingerprints cover them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """One shard's target: its retained samples, and the recipe of its member."""

    index: int
    prepared: ForgetSplit
    recipe: TrainConfig

    @property
    def size(self) -> int:
        """Return the number of training samples."""
        return len(self.prepared.parts.train)


class ShardedMethod(UnlearningMethod):
    """Base class; a method defines a partition, how a member trains, and an aggregation."""

    exact = True
    aggregation: ClassVar[str]
    config: ShardedConfig

    def train(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig, progress: Progress
    ) -> Recommender:
        """Train every shard; raises DivergedError."""
        return self._build(vocabulary, prepared, recipe, None, progress)[0]

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Retrain the changed shards, or all shards where the release is of another kind.

        No shard is retrained where only the aggregation saw the batch. Raises NothingToForgetError
        or DivergedError.
        """
        if not (task.prepared.forget_valid and has_learned_weights(task.recommender.config)):
            task.require_forget_rows()
        started = time.monotonic()
        # The parent's vocabulary may contain values that only forgotten rows justified.
        vocabulary = Vocabulary.from_catalog(task.prepared.catalog())
        ensemble, metrics = self._build(
            vocabulary, task.prepared, task.recipe, task.recommender, progress
        )
        return Unlearned(
            recommender=ensemble,
            adapter=None,
            metrics={
                "forget_rows": len(task.prepared.forget),
                **metrics,
                "seconds": time.monotonic() - started,
                "config": self.config.manifest(),
            },
        )

    @abstractmethod
    def partition(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> NDArray[np.int64]:
        """Return the shard index of each of the [M] retained training samples."""

    def ensemble_config(self, recipe: TrainConfig) -> EnsembleConfig:
        """Return the configuration of an untrained ensemble."""
        return EnsembleConfig(
            aggregation=self.aggregation,
            member=recipe.backbone.seeded(recipe.seed),
            shards=self.config.shards,
        )

    def member_recipe(self, recipe: TrainConfig, shard: int) -> TrainConfig:
        """Return a member's recipe: the release's, without choosing a state on validation rows."""
        seeded = recipe.seeded(recipe.seed * self.config.shards + shard)
        return replace(seeded, epochs=recipe.epochs * self.config.passes, validations=0)

    def new_member(self, vocabulary: Vocabulary, recipe: TrainConfig) -> Recommender:
        """Return an untrained member."""
        return build(vocabulary, recipe.backbone)

    def member_state(self, member: Recommender) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a trained member that belong to its shard alone."""
        return member.model.state_dict()

    def aggregate(self, ensemble: Ensemble, prepared: ForgetSplit, recipe: TrainConfig) -> int:
        """Compute the aggregation's tensors in place; return the number of trained parameters."""
        del ensemble, prepared, recipe
        return 0

    def _build(
        self,
        vocabulary: Vocabulary,
        prepared: ForgetSplit,
        recipe: TrainConfig,
        parent: Recommender | None,
        progress: Progress,
    ) -> tuple[Ensemble, dict[str, Any]]:
        """Return the ensemble of the retained samples, and its metrics.

        Members of the parent are kept where they fit.
        """
        ensemble = build(vocabulary, self.ensemble_config(recipe))
        if not isinstance(ensemble, Ensemble):
            raise TypeError(f"{self.aggregation!r} is not an aggregation of an ensemble")
        shard_fingerprints: list[str] = []
        retrained: list[int] = []
        trained = done = 0
        shards = self._shards(vocabulary, prepared, recipe)
        total = max(1, len(prepared.parts.train))
        for shard in shards:
            state = self._kept_state(shard, ensemble, parent)
            if state is None and shard.size:
                report = _within(progress, done / total, shard.size / total)
                member = self.new_member(vocabulary, shard.recipe)
                member.memory = ensemble.memory  # The memory limits found hold for all members.
                fit_from(member, shard.prepared, shard.recipe, report)
                state = self.member_state(member)
                retrained.append(shard.index)
                # A head tied to the embeddings appears under two names and counts once.
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
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig
    ) -> list[_Shard]:
        shard_of = self.partition(vocabulary, prepared, recipe)
        return [
            _Shard(
                index=index,
                prepared=_with_training_rows(prepared, shard_of == index),
                recipe=self.member_recipe(recipe, index),
            )
            for index in range(self.config.shards)
        ]

    def _kept_state(
        self, shard: _Shard, ensemble: Ensemble, parent: Recommender | None
    ) -> Mapping[str, torch.Tensor] | None:
        """Return the parent's member if training this shard would give the same, else None."""
        if not isinstance(parent, Ensemble) or not shard.size:
            return None
        if parent.vocabulary != ensemble.vocabulary:
            return None
        config = parent.config
        if config.fingerprinted(()) != ensemble.config or not config.shard_fingerprints:
            return None
        fits = self._shard_fingerprint(shard, parent) == config.shard_fingerprints[shard.index]
        return parent.shard_state(shard.index) if fits else None

    def _shard_fingerprint(self, shard: _Shard, ensemble: Ensemble) -> str:
        samples, data = shard.prepared.parts.train, shard.prepared.retained
        return shard_fingerprint(
            {
                "method": self.name,
                "config": self.config.manifest(),
                "recipe": shard.recipe.manifest(),
                "vocabulary": ensemble.vocabulary.manifest(),
            },
            ensemble.prompt.samples(samples, data),
            torch.from_numpy(samples.label),
            ensemble.shard_state(shard.index),
        )


def has_learned_weights(config: BackboneConfig) -> bool:
    """Return whether the release's aggregation was computed from validation rows."""
    return isinstance(config, EnsembleConfig) and config.has_learned_weights


def _with_training_rows(prepared: ForgetSplit, rows: NDArray[np.bool_]) -> ForgetSplit:
    """Return the same data with only these training samples."""
    parts = replace(prepared.parts, train=prepared.parts.train.take(np.asarray(rows)))
    return replace(prepared, parts=parts)


def _within(progress: Progress, start: float, share: float) -> Progress:
    """Return a callback that maps 0…1 to `start`…`start + share` of `progress`."""

    def report(fraction: float) -> None:
        progress(start + fraction * share)

    return report
