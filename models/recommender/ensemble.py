"""Recommenders that are made of several members, each trained on its own shard of the data.

Two kinds average what their members say: `mean` with equal weights (SISA), `attention` with learned
ones (RecEraser). `adapter_ensemble` has the kind that averages their parameters. Members that
were never trained, because their shard is empty, are left out. Knows nothing of data or training.
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

#: Ways of making one answer of several members'.
MEAN: Final = "mean"
ATTENTION: Final = "attention"
ADAPTERS: Final = "adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """The shape of one LoRA adapter per shard; `cells` are the regions that weights differ in."""

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ()
    cells: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """`shards` members like `member`, and how their answers become one.

    `seals` [shards] say what each member is: a digest of all that it was trained on, by and to, so
    that a member is known again without its data. Empty for a member that was never trained.
    """

    adapter: ClassVar[None] = None

    aggregation: str
    member: BackboneConfig
    shards: int = 4
    shard_fingerprints: tuple[str, ...] = ()
    #: Width of the attention's hidden layer.
    width: int = 16
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        """Raise ValueError for what no ensemble can be."""
        if self.aggregation not in {MEAN, ATTENTION, ADAPTERS}:
            raise ValueError(f"there is no aggregation {self.aggregation!r}")
        if self.shards < 1 or len(self.shard_fingerprints) not in {0, self.shards}:
            raise ValueError(
                f"{len(self.shard_fingerprints)} seals do not fit {self.shards} shards"
            )

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights."""
        return self.member.seed

    def seeded(self, seed: int) -> Self:
        """Return the same ensemble with other initial weights."""
        return replace(self, member=self.member.seeded(seed))

    @property
    def weighed(self) -> bool:
        """Say whether answers have weights, which were learned from validation rows as well."""
        return self.aggregation != MEAN

    def fingerprinted(self, shard_fingerprints: Sequence[str]) -> Self:
        """Return the same ensemble with other words on what its members are."""
        return replace(self, shard_fingerprints=tuple(shard_fingerprints))

    def members(self) -> list[BackboneConfig]:
        """Return the settings of every member; each has initial weights of its own."""
        first = self.member.seed * self.shards
        return [self.member.seeded(first + shard) for shard in range(self.shards)]

    def live(self) -> list[int]:
        """Return the members that were trained; all of them where none was."""
        trained = [
            shard
            for shard, shard_fingerprint in enumerate(self.shard_fingerprints)
            if shard_fingerprint
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
    """Rebuild an EnsembleConfig whose members are like `member`."""
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
    """What all kinds share: one model that holds everything, and shards that can be exchanged."""

    config: EnsembleConfig

    def __init__(
        self, vocabulary: Vocabulary, config: EnsembleConfig, shell: Recommender, model: nn.Module
    ) -> None:
        """Take the model that holds all members; `shell` is a recommender of the members' kind."""
        self.vocabulary = vocabulary
        self.config = config
        self.prompt = shell.prompt
        self.model = model
        self.memory = Memory()
        self._shell = shell

    def with_shard_fingerprints(self, shard_fingerprints: Sequence[str]) -> Self:
        """Return the same ensemble with other words on what its members are."""
        copied = copy.copy(self)
        copied.config = self.config.fingerprinted(shard_fingerprints)
        return copied

    @abstractmethod
    def shard_state(self, shard: int) -> dict[str, torch.Tensor]:
        """Return the tensors that belong to one shard alone, as live views."""

    def put_shard(self, shard: int, state: Mapping[str, torch.Tensor]) -> None:
        """Overwrite the tensors of one shard, in place."""
        own = self.shard_state(shard)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])


class Attention(nn.Module):
    """Scores K members for B samples from how each of them embeds a sample, [B, K, D] to [B, K].

    Each member's embedding goes through a layer of its own into one space, where one vector rates
    it (RecEraser, arXiv 2201.06820). That vector starts at zero: at first all members are equal.
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
    """Averages its members' *logits*: with equal weights, or with those of an attention."""

    def __init__(
        self, vocabulary: Vocabulary, config: EnsembleConfig, members: Sequence[Recommender]
    ) -> None:
        """Take members with whatever weights they have."""
        model = nn.Module()
        model.members = nn.ModuleList([member.model for member in members])
        if config.aggregation == ATTENTION:
            size = input_table(members[0]).shape[1]
            model.attention = Attention(config.shards, size, config.width, config.seed)
        super().__init__(vocabulary, config, members[0], model)

    @property
    def members(self) -> list[Recommender]:
        """Return a recommender around each member's live weights."""
        return [self._shell.with_model(model) for model in self.model.members]  # type: ignore[union-attr] # a list of modules

    def item_tables(self) -> list[torch.Tensor]:
        return [table for member in self.members for table in member.item_tables()]

    def shard_state(self, shard: int) -> dict[str, torch.Tensor]:
        return self.members[shard].model.state_dict()

    def answer_logits(self, prompts: PromptBatch) -> torch.Tensor:
        answers = self.member_logits(prompts)
        return average(answers, self.weights(prompts))

    def member_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, L, 2] logits of the L members that were trained."""
        members = self.members
        return torch.stack([members[k].answer_logits(prompts) for k in self.config.live()], dim=1)

    def weights(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, L] weights of the L members that were trained; each row sums to 1."""
        live = self.config.live()
        if self.config.aggregation == MEAN:
            return torch.full((len(prompts), len(live)), 1 / len(live))
        return self.attend(self.embedded(prompts))

    def attend(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return [B, L] weights from what `embedded` gave."""
        scores: torch.Tensor = self.model.attention(embedded.to(self.device))  # type: ignore[operator] # a module
        return to_cpu_float32(scores[:, self.config.live()].softmax(dim=1))

    def embedded(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [B, K, D]: each member's mean input embedding over the tokens that are there."""
        tables = [input_table(member) for member in self.members]
        return torch.stack([mean_embedding(table, prompts) for table in tables], dim=1)

    @torch.inference_mode()
    def score_logits(self, prompts: PromptBatch) -> torch.Tensor:
        """Return [N, 2] logits; every member encodes what the prompts share once."""
        members = self.members
        answers = [members[k].score_logits(prompts) for k in self.config.live()]
        return average(torch.stack(answers, dim=1), self.weights(prompts))


def average(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return [B, 2]: the mean of [B, L, 2] logits with [B, L] weights."""
    return (weights[:, :, None] * logits).sum(dim=1)


def input_table(recommender: Recommender) -> torch.Tensor:
    """Return the live [V, D] table of a recommender's input embeddings."""
    table: torch.Tensor = recommender.model.get_input_embeddings().weight  # type: ignore[operator] # transformers is untyped
    return table


def mean_embedding(table: torch.Tensor, prompts: PromptBatch) -> torch.Tensor:
    """Return [B, D]: the mean over a prompt's tokens of their rows in a [V, D] table."""
    prompts = prompts.to(table.device)
    present = prompts.mask.to(table.dtype)
    summed = torch.einsum("btd,bt->bd", table[prompts.tokens], present)
    return to_cpu_float32(summed / present.sum(dim=1, keepdim=True).clamp_min(1))
