"""E2URec as published (arXiv 2403.03536), on the two answer logits.

A full-weight augmented model, the ReLU teacher, and a LoRA student on queries and values with the
published hyperparameters. Two mistakes of the published code are corrected, because they are not
part of the method: the attention mask is passed, and the teachers' logits are computed once.
`e2urec_fast` is Lethe's own variant.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach
from models.prompts.prompt_batch import PromptBatch
from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.finetuning import forget_rows, retained_rows, trainable_copy
from models.unlearning.losses import answer_kl, published_forgetting_logits

if TYPE_CHECKING:
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.finetuning import Rows

    #: Rows, the indices drawn from them, and the teacher's margins of all rows.
    _Taught = tuple[Rows, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecConfig:
    """The published hyperparameters, chosen for T5-base; `joint_steps` limits the time."""

    augment_rate: float = 5e-5
    augment_steps: int = 1200
    alpha: float = 2.0
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(targets=("query", "value"))
    )
    learning_rate: float = 1e-3
    batch_size: int = 16
    forget_weight: float = 0.4
    #: Maximum steps of the joint loss, after one epoch of the forget loss alone. One epoch of the
    #: retained rows is a second maximum.
    joint_steps: int = 2000


@dataclass(frozen=True)
class E2URec(UnlearningMethod):
    """Train a LoRA student on a forgetting and a remembering teacher."""

    name = "e2urec"
    config: E2URecConfig = field(default_factory=E2URecConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train a fresh adapter; raises NothingToForgetError or DivergedError."""
        config, started = self.config, time.monotonic()
        forget, retain = forget_rows(task), retained_rows(task)
        forget_steps = -(-len(forget) // config.batch_size)
        joint_steps = min(config.joint_steps, -(-len(retain) // config.batch_size))
        total = config.augment_steps + forget_steps + joint_steps
        teachers = self._teachers(task, forget, lambda step: progress(step / total))
        forgetting = teachers[config.alpha]
        remembering = margins(task.recommender, retain.prompts)
        taught_at = time.monotonic()
        student = attach(task.recommender, config.adapter, task.seed)
        trainable = [p for p in student.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate)
        student.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, forget_steps + joint_steps + 1):
                forget_taught = forget, forget.draw(config.batch_size), forgetting
                if step <= forget_steps:
                    loss = partial(_forget_loss, student, forget_taught)
                else:
                    retain_taught = retain, retain.draw(config.batch_size), remembering
                    loss = partial(self._joint_loss, student, forget_taught, retain_taught)
                take_step(student, optimizer, loss)
                progress((config.augment_steps + step) / total)
        student.model.eval()
        return Unlearned(
            recommender=student,
            adapter=config.adapter,
            metrics={
                "forget_rows": len(forget),
                "steps": forget_steps + joint_steps,
                "trainable_parameters": trainable_parameters(student),
                **memory_report(student),
                "teacher_seconds": taught_at - started,
                "student_seconds": time.monotonic() - taught_at,
                "config": asdict(config),
            },
        )

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the teacher's own [F] margins on the forget rows, by name, for several α."""
        total = self.config.augment_steps
        teachers = self._teachers(task, forget_rows(task), lambda step: progress(step / total))
        return {f"ReLU, α = {alpha:g}": teacher for alpha, teacher in teachers.items()}

    def _teachers(
        self, task: UnlearningTask, forget: Rows, progress: Progress
    ) -> dict[float, torch.Tensor]:
        """Train the augmented model, and return the forgetting teacher's [F] margins by α."""
        config = self.config
        augmented = trainable_copy(task.recommender)
        optimizer = torch.optim.AdamW(augmented.model.parameters(), lr=config.augment_rate)
        augmented.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, config.augment_steps + 1):
                drawn = forget.draw(config.batch_size)
                take_step(augmented, optimizer, partial(_label_loss, augmented, forget, drawn))
                progress(step)
        before = task.recommender.logits(forget.prompts)
        after = augmented.logits(forget.prompts)
        teachers = {}
        for alpha in sorted({0.5, 1.0, 2.0, config.alpha}):
            logits = published_forgetting_logits(before, after, alpha)
            teachers[alpha] = logits[:, 0] - logits[:, 1]
        return teachers

    def _joint_loss(
        self, student: Recommender, forget_taught: _Taught, retain_taught: _Taught
    ) -> torch.Tensor:
        forget, forget_drawn, forgetting = forget_taught
        retain, retain_drawn, remembering = retain_taught
        prompts = PromptBatch.cat(
            [forget.prompts.take(forget_drawn), retain.prompts.take(retain_drawn)]
        )
        student_margins = live_margins(student, prompts)
        count = len(forget_drawn)
        forget_margins, retain_margins = student_margins[:count], student_margins[count:]
        label_loss = functional.binary_cross_entropy_with_logits(
            retain_margins, retain.labels[retain_drawn]
        )
        weight = self.config.forget_weight
        return weight * answer_kl(forgetting[forget_drawn], forget_margins) + (1 - weight) * (
            answer_kl(remembering[retain_drawn], retain_margins) + label_loss
        )


def _forget_loss(student: Recommender, forget_taught: _Taught) -> torch.Tensor:
    forget, drawn, forgetting = forget_taught
    return answer_kl(forgetting[drawn], live_margins(student, forget.prompts.take(drawn)))


def _label_loss(recommender: Recommender, rows: Rows, drawn: torch.Tensor) -> torch.Tensor:
    row_margins = live_margins(recommender, rows.prompts.take(drawn))
    return functional.binary_cross_entropy_with_logits(row_margins, rows.labels[drawn])
