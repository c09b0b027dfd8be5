"""E2URec as published (arXiv 2403.03536), on the two answer logits.

A full-weight augmented model, the ReLU teacher, and a LoRA student on queries and values with the
published hyperparameters. Two of the paper's weaknesses are mended, because they are mistakes and
no part of the method: the attention mask is passed, and the teachers' logits are computed once.
`e2urec_fast` is ours.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecConfig:
    """The published hyperparameters, chosen for T5-base; `joint_steps` bounds the time."""

    augment_rate: float = 5e-5
    augment_steps: int = 1200
    alpha: float = 2.0
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(targets=("query", "value"))
    )
    learning_rate: float = 1e-3
    batch_size: int = 16
    forget_weight: float = 0.4
    #: Steps of the joint loss after one epoch of the forget loss alone: at most one epoch of the
    #: retained rows, and at most this many.
    joint_steps: int = 2000


class E2URec(UnlearningMethod):
    """The paper's method."""

    name = "e2urec"

    def __init__(self, config: E2URecConfig | None = None) -> None:
        """Use `config`, or the published settings."""
        self.config = config or E2URecConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train a fresh adapter; raises NothingToForgetError or DivergedError."""
        config, started = self.config, time.monotonic()
        forget, retain = forget_rows(task), retained_rows(task)
        alone = -(-len(forget) // config.batch_size)
        joint = min(config.joint_steps, -(-len(retain) // config.batch_size))
        total = config.augment_steps + alone + joint
        teacher = self._teacher(task, forget, lambda done: progress(done / total))[config.alpha]
        remembering = margins(task.recommender, retain.prompts)
        taught_at = time.monotonic()
        student = attach(task.recommender, config.adapter, task.seed)
        trainable = [p for p in student.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate)
        student.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, alone + joint + 1):
                forgetting = forget, forget.draw(config.batch_size), teacher
                if step <= alone:
                    loss = partial(_forget_loss, student, forgetting)
                else:
                    kept = retain, retain.draw(config.batch_size), remembering
                    loss = partial(self._joint_loss, student, forgetting, kept)
                take_step(student, optimizer, loss)
                progress((config.augment_steps + step) / total)
        student.model.eval()
        return Unlearned(
            recommender=student,
            adapter=config.adapter,
            metrics={
                "forget_rows": len(forget),
                "steps": alone + joint,
                "trainable_parameters": trainable_parameters(student),
                **memory_report(student),
                "teacher_seconds": taught_at - started,
                "student_seconds": time.monotonic() - taught_at,
                "config": asdict(config),
            },
        )

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the teacher's own [F] margins on the forget rows, for several α by name."""
        total = self.config.augment_steps
        found = self._teacher(task, forget_rows(task), lambda done: progress(done / total))
        return {f"ReLU, α = {alpha:g}": margins for alpha, margins in found.items()}

    def _teacher(self, task: UnlearningTask, forget: Rows, progress: Progress) -> _Teachers:
        """Train the augmented model, and return the [F] margins of its teacher per α."""
        config = self.config
        augmented = trainable_copy(task.recommender)
        optimizer = torch.optim.AdamW(augmented.model.parameters(), lr=config.augment_rate)
        augmented.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, config.augment_steps + 1):
                rows = forget.draw(config.batch_size)
                take_step(augmented, optimizer, partial(_label_loss, augmented, forget, rows))
                progress(step)
        before = task.recommender.logits(forget.prompts)
        after = augmented.logits(forget.prompts)
        teachers = {}
        for alpha in sorted({0.5, 1.0, 2.0, config.alpha}):
            logits = published_forgetting_logits(before, after, alpha)
            teachers[alpha] = logits[:, 0] - logits[:, 1]
        return teachers

    def _joint_loss(
        self,
        student: Recommender,
        forgetting: tuple[Rows, torch.Tensor, torch.Tensor],
        retaining: tuple[Rows, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        forget, gone, teacher = forgetting
        retain, kept, remembering = retaining
        both = PromptBatch.cat([forget.prompts.take(gone), retain.prompts.take(kept)])
        found = live_margins(student, both)
        lost, held = found[: len(gone)], found[len(gone) :]
        truth = functional.binary_cross_entropy_with_logits(held, retain.labels[kept])
        weight = self.config.forget_weight
        return weight * answer_kl(teacher[gone], lost) + (1 - weight) * (
            answer_kl(remembering[kept], held) + truth
        )


def _forget_loss(
    student: Recommender, forgetting: tuple[Rows, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    forget, gone, teacher = forgetting
    return answer_kl(teacher[gone], live_margins(student, forget.prompts.take(gone)))


def _label_loss(recommender: Recommender, rows: Rows, drawn: torch.Tensor) -> torch.Tensor:
    found = live_margins(recommender, rows.prompts.take(drawn))
    return functional.binary_cross_entropy_with_logits(found, rows.labels[drawn])


_Teachers = dict[float, torch.Tensor]
