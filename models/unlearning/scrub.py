"""SCRUB: move away from the original on the forget rows, and stay with it on the retained rows.

Source: Kurmanji et al. 2023 (arXiv 2302.09880). Phases alternate: a max phase raises KL(original ‖
student) on the forget rows, a min phase lowers the same divergence and the cross entropy on the
retained rows. The last phases are min phases alone.

Differences from the paper: the min phase comes first, because the divergence and its gradient are
zero while student and original are equal; "rewind", which picks a checkpoint by the error on
validation rows of the forgotten classes, is left out, because a person has no classes; one batch
size for both phases. Trial 1 of docs/results/tuning has the published weights and temperature,
three rounds of whole passes, of which two have a max phase, and a twentieth of the base rate.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from models.training.step import take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import (
    finished,
    forget_rows,
    retained_rows,
    trainable_copy,
)
from models.unlearning.losses import answer_kl

if TYPE_CHECKING:
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubConfig:
    """Rounds of one min phase and, in the first `max_rounds` rounds, one max phase."""

    #: Learning rate as a share of the recipe's.
    rate_share: float = 0.05
    batch_size: int = 128
    rounds: int = 3
    max_rounds: int = 2
    #: Share of the retained or forget rows that a phase shows.
    passes: float = 1.0
    #: Weights of the divergence (α of the paper) and of the cross entropy (γ) in min phases.
    kl_weight: float = 0.001
    label_weight: float = 0.99
    #: Divisor of the margins within divergences, which are multiplied by its square.
    temperature: float = 4.0

    def phase_steps(self, rows: int) -> int:
        """Return the number of steps of a phase over this number of rows, at least 1."""
        return max(1, math.ceil(self.passes * rows / self.batch_size))


@dataclass(frozen=True)
class Scrub(UnlearningMethod):
    """Tune all weights in alternating phases."""

    name = "scrub"
    config: ScrubConfig = ScrubConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config
        forget, retain = forget_rows(task), retained_rows(task)
        student = trainable_copy(task.recommender)
        trained = [p for p in student.model.parameters() if p.requires_grad]
        rate = config.rate_share * task.recipe.learning_rate
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        student.model.train()
        phases = self._phases(forget, retain)
        with seeded_dropout(task.seed):
            for step, rows in enumerate(phases, start=1):
                drawn = rows.draw(config.batch_size)
                prompts, labels = rows.prompts.take(drawn), rows.labels[drawn]
                teacher = margins(task.recommender, prompts)
                if rows is forget:
                    loss = partial(self._max_loss, student, prompts, teacher)
                else:
                    loss = partial(self._min_loss, student, prompts, teacher, labels)
                take_step(student, optimizer, loss)
                progress(step / len(phases))
        return finished(student, len(forget), len(phases), asdict(config))

    def _phases(self, forget: Rows, retain: Rows) -> list[Rows]:
        """Return the rows that each step draws from."""
        config, steps = self.config, []
        for index in range(config.rounds):
            steps += [retain] * config.phase_steps(len(retain))
            if index < config.max_rounds:
                steps += [forget] * config.phase_steps(len(forget))
        return steps

    def _max_loss(
        self, student: Recommender, prompts: PromptBatch, teacher: torch.Tensor
    ) -> torch.Tensor:
        return -self._divergence(teacher, live_margins(student, prompts))

    def _min_loss(
        self,
        student: Recommender,
        prompts: PromptBatch,
        teacher: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        live = live_margins(student, prompts)
        label_loss = functional.binary_cross_entropy_with_logits(live, labels)
        divergence = self._divergence(teacher, live)
        return self.config.label_weight * label_loss + self.config.kl_weight * divergence

    def _divergence(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        """Return KL(teacher ‖ student) (nats) at the temperature T, times T²."""
        temperature = self.config.temperature
        return temperature**2 * answer_kl(teacher / temperature, student / temperature)
