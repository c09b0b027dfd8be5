"""Trains a recommender, from scratch or from where it stands.

Knows samples, prompts and optimisers; nothing of files or of requests.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch.nn import functional

from models.backbones.compact import CompactConfig
from models.data.forget_split import NO_LIMITS
from models.data.metrics import log_losses
from models.recommender.adapter_ensemble import MixedEmbedding
from models.recommender.factory import build
from models.runtime.devices import machine
from models.runtime.process_group import ALONE
from models.training.batches import epoch_batches
from models.training.distributed import together
from models.training.step import DivergedError, take_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from models.backbones.compact import BackboneConfig
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.data.splits import RowLimits
    from models.prompts.prompt_batch import PromptBatch
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.runtime.memory import Memory
    from models.runtime.process_group import ProcessGroup


class Progress(Protocol):
    """Called with a fraction in 0…1; may raise to interrupt."""

    def __call__(self, fraction: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The recipe of a release. One epoch: a second one overfits on validation (docs/methods.md)."""

    backbone: BackboneConfig = field(default_factory=CompactConfig)
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    batch_size: int = 256
    epochs: int = 1
    warmup_steps: int = 50
    #: How often per epoch validation is looked at; the best state is kept. 0: the last one is.
    validations: int = 4
    #: How many rows of the data count at all.
    limits: RowLimits = NO_LIMITS
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the recipe with a seed for the weights and the order of rows."""
        return replace(self, seed=seed, backbone=self.backbone.seeded(seed))

    def manifest(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return {
            **asdict(self),
            "backbone": self.backbone.manifest(),
            "limits": self.limits.manifest(),
        }


def margins(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [B] logit of Yes minus logit of No, without gradients."""
    logits = recommender.logits(prompts)
    return logits[:, 0] - logits[:, 1]


def live_margins(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [B] logit of Yes minus logit of No, with gradients, in parts that fit into memory."""
    logits = recommender.live_logits(prompts)
    return logits[:, 0] - logits[:, 1]


def row_losses(recommender: Recommender, samples: Samples, data: Interactions) -> NDArray[Any]:
    """Return [M] log losses (nats) of the samples, as float64."""
    found = margins(recommender, recommender.prompt.samples(samples, data)).numpy()
    return log_losses(samples.label.astype(np.float64), found.astype(np.float64))


@contextmanager
def seeded_dropout(seed: int) -> Iterator[None]:
    """Let dropout, which draws from the global generator, follow from a seed; change nothing else.

    What others draw before or after stays as it would have been.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fit(
    vocabulary: Vocabulary, prepared: ForgetSplit, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train on the retained training rows and return the state that validated best.

    Raises DivergedError.
    """
    return fit_from(build(vocabulary, config.backbone), prepared, config, progress)


def fit_from(
    recommender: Recommender, prepared: ForgetSplit, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train those weights of the recommender that may be trained, in place; return it.

    Item rows that never occur keep their initial values exactly: embeddings have no weight decay.
    Raises DivergedError.
    """
    processes = machine().processes
    if processes == 1:
        return _fit_from(recommender, prepared, config, progress)
    device = recommender.device
    recommender.model.to("cpu")  # Where it waits, the first process's GPU has room.
    given = (recommender, prepared, config)
    trained, recommender.memory = together(_fit_share, given, processes, progress)
    _put_trained(recommender, trained)
    recommender.model.to(device).eval()
    return recommender


def _fit_share(
    given: tuple[Recommender, ForgetSplit, TrainConfig],
    process_group: ProcessGroup,
    progress: Progress,
) -> tuple[dict[str, torch.Tensor], Memory]:
    """Train as one of several processes; return the trained weights and what memory they took."""
    recommender, prepared, config = given
    recommender.model.to(machine().device)
    _fit_from(recommender, prepared, config, progress, process_group)
    trained = {name: tensor.cpu() for name, tensor in _trained(recommender).items()}
    return trained, recommender.memory


def _fit_from(
    recommender: Recommender,
    prepared: ForgetSplit,
    config: TrainConfig,
    progress: Progress,
    process_group: ProcessGroup = ALONE,
) -> Recommender:
    """Train on this process's share of every batch, whose dropout is its own."""
    with seeded_dropout(config.seed + process_group.rank):
        return _fitted(recommender, prepared, config, progress, process_group)


def _fitted(
    recommender: Recommender,
    prepared: ForgetSplit,
    config: TrainConfig,
    progress: Progress,
    process_group: ProcessGroup,
) -> Recommender:
    train, valid = (
        _Rows.of(recommender, samples, prepared.retained)
        for samples in (prepared.parts.train, prepared.parts.valid)
    )
    optimizer = _optimizer(recommender, config)
    per_epoch = -(-len(train.labels) // config.batch_size)
    total = config.epochs * per_epoch
    evaluate_every = max(1, per_epoch // config.validations) if config.validations else 0
    best_loss, best_state = float("inf"), None
    generator = torch.Generator().manual_seed(config.seed)
    recommender.model.train()
    step = 0
    for _ in range(config.epochs):
        for rows in epoch_batches(train.prompts.lengths, config.batch_size, generator):
            scale = min(1.0, (step + 1) / config.warmup_steps) * (1 - step / total)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * scale
            take_step(
                recommender,
                optimizer,
                partial(train.loss, recommender, rows, process_group),
                process_group,
            )
            step += 1
            if evaluate_every and (step % evaluate_every == 0 or step == total):
                found = valid.evaluate(recommender, process_group)
                if found < best_loss:
                    best_loss, best_state = found, _trained(recommender)
            if step % 10 == 0:
                progress(step / total)
    if best_state is None and evaluate_every and len(valid.labels):
        raise DivergedError(DivergedError.__doc__)
    if best_state is not None:
        _put_trained(recommender, best_state)
    recommender.model.eval()
    return recommender


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """Encoded samples and their labels."""

    prompts: PromptBatch
    labels: torch.Tensor

    @classmethod
    def of(cls, recommender: Recommender, samples: Samples, data: Interactions) -> Self:
        return cls(
            prompts=recommender.prompt.samples(samples, data),
            labels=torch.from_numpy(samples.label),
        )

    def loss(
        self, recommender: Recommender, rows: torch.Tensor, process_group: ProcessGroup
    ) -> torch.Tensor:
        """Return a process's share of the mean loss (nats) of a batch: all shares add up to it."""
        own, share = process_group.share(rows)
        found = live_margins(recommender, self.prompts.take(own))
        return share * functional.binary_cross_entropy_with_logits(found, self.labels[own])

    def evaluate(self, recommender: Recommender, process_group: ProcessGroup) -> float:
        """Return the mean loss (nats) of all rows, without gradients; NaN where there are none."""
        if not len(self.labels):
            return float("nan")
        own, share = process_group.share(torch.arange(len(self.labels)))
        found = margins(recommender, self.prompts.take(own))
        loss = functional.binary_cross_entropy_with_logits(found, self.labels[own])
        return process_group.total(share * loss.item())


def _trained(recommender: Recommender) -> dict[str, torch.Tensor]:
    """Return a copy of the weights that train, by name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in recommender.model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def _put_trained(recommender: Recommender, state: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the weights that train by what `_trained` gave, in place."""
    weights = dict(recommender.model.named_parameters())
    for name, tensor in state.items():
        weights[name].copy_(tensor)


def _optimizer(recommender: Recommender, config: TrainConfig) -> torch.optim.Optimizer:
    embeddings: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    rows = {
        id(parameter)
        for module in recommender.model.modules()
        if isinstance(module, torch.nn.Embedding | MixedEmbedding)
        for parameter in module.parameters()
    }
    for parameter in recommender.model.parameters():
        if parameter.requires_grad:
            (embeddings if id(parameter) in rows else others).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": embeddings, "weight_decay": 0.0},
            {"params": others, "weight_decay": config.weight_decay},
        ],
        lr=config.learning_rate,
    )
