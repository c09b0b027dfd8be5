"""Train a recommender on prepared rows, and compute its margins and losses on rows.

A margin is the logit of Yes minus the logit of No.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

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
from models.training.distributed import run_in_processes
from models.training.step import DivergedError, linear_schedule, take_step

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
    from models.runtime.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The recipe of a release.

    The default is one epoch because a second epoch overfits on validation (docs/methods.md).
    """

    backbone: BackboneConfig = field(default_factory=CompactConfig)
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    batch_size: int = 256
    epochs: int = 1
    warmup_steps: int = 50
    #: Evaluations on validation rows per epoch; the best state is kept. 0: keep the last state.
    validations: int = 4
    #: Maximum numbers of training and evaluation rows.
    limits: RowLimits = NO_LIMITS
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the recipe with this seed for the initial weights and the order of rows."""
        return replace(self, seed=seed, backbone=self.backbone.seeded(seed))

    def manifest(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return {
            **asdict(self),
            "backbone": self.backbone.manifest(),
            "limits": self.limits.manifest(),
        }


def margins(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [B] margins (logit of Yes minus logit of No), without gradients."""
    logits = recommender.logits(prompts)
    return logits[:, 0] - logits[:, 1]


def live_margins(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [B] margins with gradients, computed in parts that fit into memory."""
    logits = recommender.live_logits(prompts)
    return logits[:, 0] - logits[:, 1]


def row_margins(
    recommender: Recommender, samples: Samples, data: Interactions
) -> NDArray[np.float64]:
    """Return [M] margins (logit of Yes minus logit of No) of the samples, as float64.

    The recommender encodes the prompts itself: a retrained model may have another vocabulary.
    """
    prompts = recommender.prompt.samples(samples, data)
    return margins(recommender, prompts).numpy().astype(np.float64)


def row_losses(recommender: Recommender, samples: Samples, data: Interactions) -> NDArray[Any]:
    """Return [M] log losses (nats) of the samples, as float64."""
    return log_losses(samples.label.astype(np.float64), row_margins(recommender, samples, data))


@contextmanager
def seeded_dropout(seed: int) -> Iterator[None]:
    """Seed the global generator, from which dropout draws, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fit(
    vocabulary: Vocabulary, prepared: ForgetSplit, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train a new recommender on the retained training rows; keep the state of lowest valid loss.

    Raises DivergedError.
    """
    return fit_from(build(vocabulary, config.backbone), prepared, config, progress)


def fit_from(
    recommender: Recommender, prepared: ForgetSplit, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train the recommender's trainable weights in place, and return the recommender.

    Embedding rows of items that never occur keep their initial values exactly, because embeddings
    have no weight decay. Raises DivergedError.
    """
    processes = machine().processes
    if processes == 1:
        return _fit_from(recommender, prepared, config, progress)
    device = recommender.device
    recommender.model.to("cpu")  # Frees memory for the first process on the same GPU.
    inputs = (recommender, prepared, config)
    trained, recommender.memory = run_in_processes(_fit_share, inputs, processes, progress)
    _load_trained(recommender, trained)
    recommender.model.to(device).eval()
    return recommender


def _fit_share(
    inputs: tuple[Recommender, ForgetSplit, TrainConfig],
    process_group: ProcessGroup,
    progress: Progress,
) -> tuple[dict[str, torch.Tensor], Memory]:
    """Train in one of several processes; return the trained weights and the memory's state."""
    recommender, prepared, config = inputs
    recommender.model.to(machine().device)
    _fit_from(recommender, prepared, config, progress, process_group)
    trained = {name: tensor.cpu() for name, tensor in _copy_trained(recommender).items()}
    return trained, recommender.memory


def _fit_from(
    recommender: Recommender,
    prepared: ForgetSplit,
    config: TrainConfig,
    progress: Progress,
    process_group: ProcessGroup = ALONE,
) -> Recommender:
    """Train on this process's share of every batch, with dropout of its own."""
    with seeded_dropout(config.seed + process_group.rank):
        return _train_epochs(recommender, prepared, config, progress, process_group)


def _train_epochs(
    recommender: Recommender,
    prepared: ForgetSplit,
    config: TrainConfig,
    progress: Progress,
    process_group: ProcessGroup,
) -> Recommender:
    train, valid = (
        _LabeledPrompts.of(recommender, samples, prepared.retained)
        for samples in (prepared.parts.train, prepared.parts.valid)
    )
    per_epoch = -(-len(train.labels) // config.batch_size)
    total = config.epochs * per_epoch
    optimizer = _optimizer(recommender, config)
    schedule = linear_schedule(optimizer, config.warmup_steps, total)
    evaluate_every = max(1, per_epoch // config.validations) if config.validations else 0
    best_loss, best_state = float("inf"), None
    generator = torch.Generator().manual_seed(config.seed)
    recommender.model.train()
    step = 0
    for _ in range(config.epochs):
        for rows in epoch_batches(train.prompts.lengths, config.batch_size, generator):
            loss_of = partial(train.loss, recommender, rows, process_group)
            take_step(recommender, optimizer, loss_of, process_group)
            schedule.step()
            step += 1
            if evaluate_every and (step % evaluate_every == 0 or step == total):
                valid_loss = valid.evaluate(recommender, process_group)
                if valid_loss < best_loss:
                    best_loss, best_state = valid_loss, _copy_trained(recommender)
            if step % 10 == 0:
                progress(step / total)
    if best_state is None and evaluate_every and len(valid.labels):
        raise DivergedError(DivergedError.__doc__)
    if best_state is not None:
        _load_trained(recommender, best_state)
    recommender.model.eval()
    return recommender


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LabeledPrompts:
    """The prompts of samples, and their [M] labels (0 or 1)."""

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
        """Return this process's summand of the batch's mean loss (nats)."""
        own, share = process_group.share(rows)
        own_margins = live_margins(recommender, self.prompts.take(own))
        return share * functional.binary_cross_entropy_with_logits(own_margins, self.labels[own])

    def evaluate(self, recommender: Recommender, process_group: ProcessGroup) -> float:
        """Return the mean loss (nats) of all rows, without gradients; NaN without rows."""
        if not len(self.labels):
            return float("nan")
        own, share = process_group.share(torch.arange(len(self.labels)))
        own_margins = margins(recommender, self.prompts.take(own))
        loss = functional.binary_cross_entropy_with_logits(own_margins, self.labels[own])
        return process_group.total(share * loss.item())


def _copy_trained(recommender: Recommender) -> dict[str, torch.Tensor]:
    """Return copies of the trainable weights by name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in recommender.model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def _load_trained(recommender: Recommender, state: Mapping[str, torch.Tensor]) -> None:
    """Overwrite trainable weights, in place, with those of `_copy_trained`."""
    weights = dict(recommender.model.named_parameters())
    for name, tensor in state.items():
        weights[name].copy_(tensor)


def _optimizer(recommender: Recommender, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trainable weights, without weight decay on embeddings."""
    embedding_ids = {
        id(parameter)
        for module in recommender.model.modules()
        if isinstance(module, torch.nn.Embedding | MixedEmbedding)
        for parameter in module.parameters()
    }
    trainable = [p for p in recommender.model.parameters() if p.requires_grad]
    embeddings = [p for p in trainable if id(p) in embedding_ids]
    others = [p for p in trainable if id(p) not in embedding_ids]
    return torch.optim.AdamW(
        [
            {"params": embeddings, "weight_decay": 0.0},
            {"params": others, "weight_decay": config.weight_decay},
        ],
        lr=config.learning_rate,
    )
