"""Trains a recommender from scratch, and measures what leaving someone out changes.

Knows samples, prompts and optimisers; nothing of files or of requests.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch.nn import functional

from models.adapter_mixture import MixedEmbedding
from models.assembly import build
from models.audit.utility import log_losses
from models.backbones import CompactConfig
from models.preparation import KINDS, NO_LIMITS, ForgetIndices, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from models.backbones import BackboneConfig
    from models.datasets.interactions import Interactions
    from models.encoded import Encoded
    from models.preparation import Prepared
    from models.recommender import Recommender
    from models.samples import Samples
    from models.splits import RowLimits
    from models.vocabulary import Vocabulary


class DivergedError(RuntimeError):
    """The loss became NaN or infinite. Lower the learning rate and train again."""


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
        return {**asdict(self), "backbone": self.backbone.manifest()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """What a shadow model leaves out, so that the effect of leaving out is measured."""

    users: float = 0.2
    items: float = 0.01
    pairs: float = 0.01
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRise:
    """How much the loss of rows rises (nats) when a model never saw them.

    Measured between a model and its shadow: `mean` over `rows` rows, its standard error, and the
    spread (standard deviation) of the means of single users, `units` of them.
    """

    mean: float
    error: float
    spread: float
    rows: int
    units: int


def margins(recommender: Recommender, prompts: Encoded) -> torch.Tensor:
    """Return [B] logit of Yes minus logit of No, without gradients."""
    logits = recommender.logits(prompts)
    return logits[:, 0] - logits[:, 1]


def live_margins(recommender: Recommender, prompts: Encoded) -> torch.Tensor:
    """Return [B] logit of Yes minus logit of No, with gradients."""
    logits = recommender.answer_logits(prompts)
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
    vocabulary: Vocabulary, prepared: Prepared, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train on the retained training rows and return the state that validated best.

    Raises DivergedError.
    """
    return fit_from(build(vocabulary, config.backbone), prepared, config, progress)


def fit_from(
    recommender: Recommender, prepared: Prepared, config: TrainConfig, progress: Progress
) -> Recommender:
    """Train those weights of the recommender that may be trained, in place; return it.

    Item rows that never occur keep their initial values exactly: embeddings have no weight decay.
    Raises DivergedError.
    """
    with seeded_dropout(config.seed):
        return _fit_from(recommender, prepared, config, progress)


def _fit_from(
    recommender: Recommender, prepared: Prepared, config: TrainConfig, progress: Progress
) -> Recommender:
    data, parts = prepared.retained, prepared.parts
    prompts = recommender.prompt.samples(parts.train, data)
    labels = torch.from_numpy(parts.train.label)
    valid = recommender.prompt.samples(parts.valid, data)
    valid_labels = torch.from_numpy(parts.valid.label)
    optimiser = _optimiser(recommender, config)
    per_epoch = -(-len(labels) // config.batch_size)
    total = config.epochs * per_epoch
    look_every = max(1, per_epoch // config.validations) if config.validations else 0
    best_loss, best_state = float("inf"), None
    generator = torch.Generator().manual_seed(config.seed)
    recommender.model.train()
    step = 0
    for _ in range(config.epochs):
        for rows in torch.split(
            torch.randperm(len(labels), generator=generator), config.batch_size
        ):
            scale = min(1.0, (step + 1) / config.warmup_steps) * (1 - step / total)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * scale
            loss = functional.binary_cross_entropy_with_logits(
                live_margins(recommender, prompts.take(rows)), labels[rows]
            )
            if not torch.isfinite(loss):
                raise DivergedError(DivergedError.__doc__)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
            optimiser.step()
            step += 1
            if look_every and (step % look_every == 0 or step == total):
                found = functional.binary_cross_entropy_with_logits(
                    margins(recommender, valid), valid_labels
                ).item()
                if found < best_loss:
                    best_loss = found
                    best_state = copy.deepcopy(recommender.model.state_dict())
            if step % 10 == 0:
                progress(step / total)
    if best_state is None and look_every and len(valid_labels):
        raise DivergedError(DivergedError.__doc__)
    if best_state is not None:
        recommender.model.load_state_dict(best_state)
    recommender.model.eval()
    return recommender


def _optimiser(recommender: Recommender, config: TrainConfig) -> torch.optim.Optimizer:
    embeddings: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    rows = {
        id(parameter)
        for module in recommender.model.modules()
        if isinstance(module, torch.nn.Embedding | MixedEmbedding)
        for parameter in module.parameters()
    }
    for parameter in recommender.model.parameters():
        (embeddings if id(parameter) in rows else others).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": embeddings, "weight_decay": 0.0},
            {"params": others, "weight_decay": config.weight_decay},
        ],
        lr=config.learning_rate,
    )


def calibrate(
    data: Interactions,
    recommender: Recommender,
    prepared: Prepared,
    cohort: frozenset[int],
    config: CalibrationConfig,
    train: Callable[[Prepared], Recommender],
) -> dict[str, ExpectedRise]:
    """Train a shadow without some users, items and pairs; return the expected rise per kind.

    `train` makes a model of rows as the recommender was made of its own. The result is what the
    forgetting teacher is calibrated with, and what the audit compares with. A comparison of trained
    rows with the cohort's rows would measure how hard the two are instead: the shadow's differences
    are paired, row by row. The shadow's weights are never written.
    """
    shadow_data = shadow_rows(data, prepared, cohort, config)
    return expected_rises(recommender, train(shadow_data), shadow_data, data)


def shadow_rows(
    data: Interactions, prepared: Prepared, cohort: frozenset[int], config: CalibrationConfig
) -> Prepared:
    """Return what a shadow trains on: the retained rows, less some users, items and pairs."""
    left_out = _leave_out(prepared.retained, cohort, config)
    return prepare(data, left_out, cohort, prepared.bounds)


def expected_rises(
    recommender: Recommender, shadow: Recommender, shadow_data: Prepared, data: Interactions
) -> dict[str, ExpectedRise]:
    """Return per kind how much higher the shadow's loss is on the rows that it never saw.

    A shadow of fewer people is a little worse for everybody. What it is worse by for the cohort,
    whom neither saw, is no forgetting, and is taken off where there is a cohort.
    """

    def rises(samples: Samples, table: Interactions) -> NDArray[Any]:
        found: NDArray[Any] = row_losses(shadow, samples, table)
        found -= row_losses(recommender, samples, table)
        return found

    cohort = shadow_data.parts.cohort
    general = float(rises(cohort, shadow_data.retained).mean()) if len(cohort) else 0.0
    rise = rises(shadow_data.forget, data) - general
    expected = {}
    for index, kind in enumerate(KINDS):
        rows = shadow_data.forget_kind == index
        unit = shadow_data.forget.user[rows]
        means = [float(rise[rows][unit == user].mean()) for user in np.unique(unit)]
        if len(means) > 1:
            expected[kind] = ExpectedRise(
                mean=float(rise[rows].mean()),
                error=float(np.std(means, ddof=1) / np.sqrt(len(means))),
                spread=float(np.std(means, ddof=1)),
                rows=int(rows.sum()),
                units=len(means),
            )
    return expected


def _leave_out(
    data: Interactions, cohort: frozenset[int], config: CalibrationConfig
) -> ForgetIndices:
    generator = np.random.default_rng(config.seed)
    users = np.setdiff1d(np.unique(data.user), np.fromiter(cohort, np.int32))
    # A spread needs two people; whoever is left has to train a shadow.
    count = min(max(2, round(len(users) * config.users)), len(users) // 2)
    chosen = generator.choice(users, count, replace=False)
    rated = np.unique(data.item)
    items = generator.choice(rated, round(len(rated) * config.items), replace=False)
    rows = generator.choice(len(data), round(len(data) * config.pairs), replace=False)
    pairs = zip(data.user[rows].tolist(), data.item[rows].tolist(), strict=True)
    return ForgetIndices(
        users=frozenset(chosen.tolist()), items=frozenset(items.tolist()), pairs=frozenset(pairs)
    )
