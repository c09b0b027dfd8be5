"""How fast a model learns the forgotten rows again: what was only hidden comes back too soon.

The relearn time of Tarun et al. (arXiv 2111.08947), read as the anamnesis index of Chundawat et al.
(arXiv 2201.05629): it means nothing alone; Retrain's, with the same seed, says what is normal.
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
    """The fine-tuning, the same for every method.

    On ml-latest-small with 20 % of the users forgotten, two Retrain runs took 92 and 104 steps of
    it (21 s for both on one thread); with 3e-4 they took 150 to 160.
    """

    learning_rate: float = 1e-3
    batch_size: int = 64
    #: Steps between two looks, and on how many rows at most.
    evaluate_every: int = 4
    evaluation_rows: int = 1024
    #: Given up after this many steps.
    cap: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearned:
    """Steps until the target loss; `cap + 1` and `censored` where it was not reached.

    `before` and `after` are the mean losses (nats) on the rows looked at, `target` what was wanted.
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
    """Fine-tune a copy on the forget rows until their mean loss is back at the Original's.

    `prompts` and `labels` are the F forget rows; `target_loss` are the Original's losses on them
    (nats): best [F], so that a look at some of them has *their* target, for a sample's mean loss
    varies by a third of what is to be regained. All weights learn, adapters and members of an
    ensemble included; dropout stays off. The order follows from the seed, and the recommender
    given is never changed.
    """
    attacker = copy.deepcopy(recommender)
    attacker.model.requires_grad_(requires_grad=True).eval()
    answers = torch.as_tensor(np.asarray(labels, np.float32))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(answers), generator=generator)[: config.evaluation_rows]
    evaluated, evaluated_answers = prompts.take(rows), answers[rows]
    target = float(np.broadcast_to(target_loss, len(answers))[rows.numpy()].mean())

    def loss() -> float:
        found = margins(attacker, evaluated)
        return functional.binary_cross_entropy_with_logits(found, evaluated_answers).item()

    optimizer = torch.optim.AdamW(
        attacker.model.parameters(), lr=config.learning_rate, weight_decay=0.0
    )
    before = now = loss()
    steps = 0
    waiting: list[torch.Tensor] = []
    while now > target and steps < config.cap:
        waiting = waiting or list(
            torch.split(torch.randperm(len(answers), generator=generator), config.batch_size)
        )
        rows = waiting.pop()
        try:
            take_step(attacker, optimizer, partial(_loss, attacker, prompts, answers, rows))
        except DivergedError:
            now = float("nan")
            break
        steps += 1
        if steps % config.evaluate_every == 0 or steps == config.cap:
            now = loss()
    censored = not now <= target  # Also where broken weights answer NaN.
    return Relearned(
        steps=config.cap + 1 if censored else steps,
        censored=censored,
        before=before,
        after=now,
        target=target,
    )


def _loss(
    attacker: Recommender, prompts: PromptBatch, answers: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    found = live_margins(attacker, prompts.take(rows))
    return functional.binary_cross_entropy_with_logits(found, answers[rows])
