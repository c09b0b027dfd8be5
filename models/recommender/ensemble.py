"""Combine several members, each trained on its own shard of the data, into one recommender.

`OutputEnsemble` averages the members' logits: `mean` with equal weights (SISA), `attention` with
learned weights (RecEraser). `adapter_ensemble` averages parameters instead (APA). Members whose
shard is empty are not trained and take no part.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch
from torch import nn

from models.recommender.base import Recommender, to_cpu_float32
from models.runtime.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.backbones.compact import BackboneConfig
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.vocabulary import Vocabulary

#: Ways to combine the members.
MEAN: Final = "mean"
ATTENTION: Final = "attention"
ADAPTERS: Final = "adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """The shape of one LoRA adapter per shard; `cells`: the number of regions in `Routing`."""

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ()
    cells: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """Settings of `shards` members with the backbone `member`, and of their combination.

    `shard_fingerprints` has a digest per shard of everything that the member's training depends on
    (data, recipe, result), so that a member can be recognized without its data. The digest of an
    untrained member is empty.
    """

    adapter: ClassVar[None] = None

    aggregation: str
    member: BackboneConfig
    shards: int = 4
    shard_fingerprints: tuple[str, ...] = ()
    #: Width of the hidden layer of `Attention`.
    width: int = 16
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        """Raise ValueError for invalid settings."""
        if self.aggregation not in {MEAN, ATTENTION, ADAPTERS}:
            raise ValueError(f"unknown aggregation {self.aggregation!r}")
        if self.shards < 1 or len(self.shard_fingerprints) not in {0, self.shards}:
            raise ValueError(
                f"{len(self.shard_fingerprints)} shard fingerprints for {self.shards} shards"
            )

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights."""
        return self.member.seed

    def seeded(self, seed: int) -> Self:
        """Return the same settings with another seed."""
        return replace(self, member=self.member.seeded(seed))

    @property
    def has_learned_weights(self) -> bool:
        """Return whether members have learned weights, which depend on validation rows."""
        return self.aggregation != MEAN

    def fingerprinted(self, shard_fingerprints: Sequence[str]) -> Self:
        """Return the same settings with other shard fingerprints."""
        return replace(self, shard_fingerprints=tuple(shard_fingerprints))

    def members(self) -> list[BackboneConfig]:
        """Return the settings of each member, which differ in their seeds."""
        first_seed = self.member.seed * self.shards
        return [self.member.seeded(first_seed + shard) for shard in range(self.shards)]

    def live_shards(self) -> list[int]:
        """Return the indices of trained members, or of all members if none has been trained."""
        trained = [
            shard for shard, fingerprint in enumerate(self.shard_fingerprints) if fingerprint
        ]
        return trained or list(range(self.shards))

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "kind": "ensemble",
            "aggregation": self.aggregation,
            "member": self.member.manifest(),
            "shards": self.shards,
            "seals": list(self.shard_fingerprints),
            "width": self.width,
            "mixture": {**asdict(self.mixture), "targets": list(self.mixture.targets)},
        }


def ensemble_from_manifest(manifest: Mapping[str, Any], member: BackboneConfig) -> EnsembleConfig:
    """Rebuild the settings of an ensemble with the backbone `member`."""
    mixture = dict(manifest["mixture"])
    return EnsembleConfig(
        aggregation=manifest["aggregation"],
        member=member,
        shards=int(manifest["shards"]),
        shard_fingerprints=tuple(manifest["seals"]),
        width=int(manifest["width"]),
        mixture=MixtureConfig(**{**mixture, "targets": tuple(mixture["targets"])}),
    )


class Ensemble(Recommender, ABC):
    """A recommender with one model for all members, and exchangeable weights per shard."""

    config: EnsembleConfig

    def __init__(
        self, vocabulary: Vocabulary, config: EnsembleConfig, shell: Recommender, model: nn.Module
    ) -> None:
        """Take the model of all members; `shell` is a recommender of a member's class."""
        self.vocabulary = vocabulary
        self.config = config
        self.prompt = shell.prompt
        self.model = model
        self.memory = Memory()
        self._shell = shell

    def with_shard_fingerprints(self, shard_fingerprints: Sequence[str]) -> Self:
        """Return an ensemble with the same weights and other shard fingerprints."""
        ensemble = copy.copy(self)
        ensemble.config = self.config.fingerprinted(shard_fingerprints)
        return ensemble

    @abstractmethod
    def shard_state(self, shard: int) -> dict[str, torch.Tensor]:
        """Return the tensors of one shard, as views."""

    def load_shard(self, shard: int, state: Mapping[str, torch.Tensor]) -> None:
        """Overwrite the tensors of one shard, in place."""
        with torch.no_grad():
            for name, tensor in self.shard_state(shard).items():
                tensor.copy_(state[name])


class Attention(nn.Module):
    """Score K members for B samples from the members' embeddings of a sample, [B, K, D] to [B, K].

    One layer per member maps its embedding into a common space, where a common vector rates it
    (RecEraser, arXiv 2201.06820). The vector starts at zero, so that all members begin equal.
    """

    def __init__(self, members: int, size: int, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(members, size, width, generator=generator) / size**0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, width))
        self.rate = nn.Parameter(torch.zeros(width))

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return [B, K] scores before the softmax."""
        hidden = torch.einsum("bkd,kdw->bkw", embedded, self.weight) + self.bias
        scores: torch.Tensor = torch.relu(hidden) @ self.rate
        return scores


class OutputEnsemble(Ensemble):
    """Average the members' logits, with equal weights or with those of `Attention`."""

    def __init__(
        self, vocabulary: Vocabulary, config: EnsembleConfig, members: Sequence[Recommender]
    ) -> None:
        """Take the members with their present weights."""
        model = nn.Module()
        model.members = nn.ModuleList([member.model for member in members])
        if config.aggregation == ATTENTION:
            size = input_table(members[0]).shape[1]
            model.attention = Attention(config.shards, size, config.width, config.seed)
        super().__init__(vocabulary, config, members[0], model)

    @property
    def members(self) -> list[Recommender]:
        """Return a recommender per member, on the ensemble's own weights."""
        return [self._shell.with_model(model) for model in self.model.members]  # type: ignore[union-attr] # a list of modules

    def item_tables(self) -> list[torch.Tensor]:
        return [table for member in self.members for table in member.item_tables()]

    def shard_state(self, shard: int) -> dict[str, torch.Tensor]:
        return self.members[shard].model.state_dict()

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        return average(self.member_logits(prompts), self.weights(prompts))

    def member_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, L, 2] logits of the L trained members."""
        members = self.members
        return torch.stack(
            [members[k].answer_logits(prompts) for k in self.config.live_shards()], dim=1
        )

    def weights(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, L] weights of the L trained members; each row sums to 1."""
        live = self.config.live_shards()
        if self.config.aggregation == MEAN:
            return torch.full((len(prompts), len(live)), 1 / len(live))
        return self.attend(self.embedded(prompts))

    def attend(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return [B, L] weights from the [B, K, D] that `embedded` returns."""
        scores: torch.Tensor = self.model.attention(embedded.to(self.device))  # type: ignore[operator] # a module
        return to_cpu_float32(scores[:, self.config.live_shards()].softmax(dim=1))

    def embedded(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, K, D]: each member's mean input embedding over the tokens of each prompt."""
        tables = [input_table(member) for member in self.members]
        return torch.stack([mean_embedding(table, prompts) for table in tables], dim=1)

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits of (Yes, No); each member reads the shared prefix once."""
        members = self.members
        logits = [members[k].score_logits(prompts) for k in self.config.live_shards()]
        return average(torch.stack(logits, dim=1), self.weights(prompts))


def average(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return [B, 2]: the mean of [B, L, 2] logits, weighted by [B, L] weights."""
    return (weights[:, :, None] * logits).sum(dim=1)


def input_table(recommender: Recommender) -> torch.Tensor:
    """Return the [V, D] input embeddings of a recommender, as a view."""
    table: torch.Tensor = recommender.model.get_input_embeddings().weight  # type: ignore[operator] # transformers is untyped
    return table


def mean_embedding(table: torch.Tensor, prompts: PromptBatch) -> torch.Tensor:
    """Return [B, D]: the mean over each prompt's tokens of their rows in a [V, D] table."""
    prompts = prompts.to(table.device)
    present = prompts.mask.to(table.dtype)
    summed = torch.einsum("btd,bt->bd", table[prompts.tokens], present)
    return to_cpu_float32(summed / present.sum(dim=1, keepdim=True).clamp_min(1))
