"""Measure how fast a model relearns the forget rows; rows that were only hidden return too soon.

The relearn time of Tarun et al. (arXiv 2111.08947), compared as in the anamnesis index of Chundawat
et al. (arXiv 2201.05629): divide the steps by those of a Retrain run with the same seed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from models.training.step import DivergedError, take_step
from models.training.trainer import live_margins, margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class RelearnConfig:
    """Settings of the fine-tuning, the same for every method.

    On ml-latest-small with 20 % of the users forgotten, two Retrain runs took 92 and 104 steps (21
    s for both on one thread); with a learning rate of 3e-4 they took 150 to 160.
    """

    learning_rate: float = 1e-3
    batch_size: int = 64
    #: Steps between two evaluations, and their maximum number of rows.
    evaluate_every: int = 4
    evaluation_rows: int = 1024
    #: Maximum number of steps.
    cap: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearned:
    """Steps until the target loss; `cap + 1` steps and `censored` where it was not reached.

    `before`, `after` and `target` are mean losses (nats) on the evaluation rows.
    """

    steps: int
    censored: bool
    before: float
    after: float
    target: float


def relearn_steps(
    recommender: Recommender,
    prompts: PromptBatch,
    labels: NDArray[np.floating],
    target_loss: NDArray[np.floating] | float,
    config: RelearnConfig,
    seed: int,
) -> Relearned:
    """Fine-tune a copy on the forget rows until their mean loss is down to Original's.

    `prompts` and `labels` are the F forget rows. `target_loss` is Original's loss on them (nats),
    preferably [F], so that the target is that of the evaluation rows: the mean loss of a sample of
    rows varies by a third of the difference to regain. All weights train, including adapters and
    members of an ensemble; dropout is off. The seed sets the order of rows. The recommender does
    not change.
    """
    attacker = copy.deepcopy(recommender)
    attacker.model.requires_grad_(requires_grad=True).eval()
    targets = torch.as_tensor(np.asarray(labels, np.float32))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(targets), generator=generator)[: config.evaluation_rows]
    evaluated, evaluated_targets = prompts.take(rows), targets[rows]
    target = float(np.broadcast_to(target_loss, len(targets))[rows.numpy()].mean())

    def evaluate() -> float:
        row_margins = margins(attacker, evaluated)
        return functional.binary_cross_entropy_with_logits(row_margins, evaluated_targets).item()

    optimizer = torch.optim.AdamW(
        attacker.model.parameters(), lr=config.learning_rate, weight_decay=0.0
    )
    before = loss = evaluate()
    steps = 0
    batches: list[torch.Tensor] = []
    while loss > target and steps < config.cap:
        batches = batches or list(
            torch.split(torch.randperm(len(targets), generator=generator), config.batch_size)
        )
        rows = batches.pop()
        try:
            take_step(attacker, optimizer, partial(_loss, attacker, prompts, targets, rows))
        except DivergedError:
            loss = float("nan")
            break
        steps += 1
        if steps % config.evaluate_every == 0 or steps == config.cap:
            loss = evaluate()
    censored = not loss <= target  # Also where the loss is NaN.
    return Relearned(
        steps=config.cap + 1 if censored else steps,
        censored=censored,
        before=before,
        after=loss,
        target=target,
    )


def _loss(
    attacker: Recommender, prompts: PromptBatch, targets: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    row_margins = live_margins(attacker, prompts.take(rows))
    return functional.binary_cross_entropy_with_logits(row_margins, targets[rows])
