"""E2URec as published (arXiv 2403.03536), and a longer variant.

A full-weight augmented model, the ReLU teacher, and a LoRA student on queries and values with the
published hyperparameters. The losses are over the whole vocabulary where the backbone was
pretrained on one; a compact model knows two answers only.

Differences from the published code: the attention mask is passed, because a missing mask is a
mistake and not part of the method; and the rate of the augmented model is a share of the recipe's,
because the published rate belongs to T5-base. `e2urec_fast` is Lethe's own variant.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach
from models.prompts.prompt_batch import PromptBatch
from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report, take_step
from models.training.trainer import seeded_dropout
from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.finetuning import forget_rows, retained_rows, trainable_copy
from models.unlearning.losses import distribution_kl, published_forgetting_logits

if TYPE_CHECKING:
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.finetuning import Rows

#: Values of α whose teachers `teacher_margins` evaluates, beside the configured α.
_ALPHAS: Final = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecConfig:
    """The published hyperparameters of T5-base.

    The published checkpoint is the one after 1,000 steps of 16 rows, of which one epoch of 12,982
    forget rows takes 812; 188 steps of the joint loss remain.
    """

    #: Learning rate of the augmented model, as a share of the recipe's: 5e-5 of 5e-4.
    augment_rate: float = 0.1
    augment_steps: int = 1200
    alpha: float = 2.0
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(targets=("query", "value"))
    )
    learning_rate: float = 1e-3
    batch_size: int = 16
    forget_weight: float = 0.4
    #: Passes over the forget rows with the forget loss alone, before the joint loss.
    forget_epochs: float = 1.0
    #: Maximum steps of the joint loss. One epoch of the retained rows is a second maximum.
    joint_steps: int = 188


#: Ten times as many joint steps. The share gives the published rate, 5e-5, for the compact recipe's
#: rate of 2e-3.
LONG: Final = E2URecConfig(augment_rate=0.025, joint_steps=2000)


@dataclass(frozen=True)
class E2URec(UnlearningMethod):
    """Train a LoRA student on a forgetting and a remembering teacher."""

    name = "e2urec"
    config: E2URecConfig = field(default_factory=E2URecConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train a fresh adapter; raises NothingToForgetError or DivergedError."""
        config, started = self.config, time.monotonic()
        forget, retain = forget_rows(task), retained_rows(task)
        forget_steps = math.ceil(config.forget_epochs * len(forget) / config.batch_size)
        joint_steps = min(config.joint_steps, -(-len(retain) // config.batch_size))
        total = config.augment_steps + forget_steps + joint_steps
        augmented = self._augmented(task, forget, lambda step: progress(step / total))
        teachers = _Teachers(task.recommender, augmented, config.alpha)
        augmented_at = time.monotonic()
        student = attach(task.recommender, config.adapter, task.seed)
        trainable = [p for p in student.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate)
        student.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, forget_steps + joint_steps + 1):
                forget_prompts = forget.prompts.take(forget.draw(config.batch_size))
                forgetting = teachers.forgetting(forget_prompts)
                if step <= forget_steps:
                    loss = partial(_forget_loss, student, forget_prompts, forgetting)
                else:
                    drawn = retain.draw(config.batch_size)
                    retained = _Retained.of(teachers, retain, drawn)
                    loss = partial(self._joint_loss, student, forget_prompts, forgetting, retained)
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
                "teacher_seconds": augmented_at - started,
                "student_seconds": time.monotonic() - augmented_at,
                "config": asdict(config),
            },
        )

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the teacher's own [F] margins on the forget rows, by name, for several α."""
        forget, steps = forget_rows(task), self.config.augment_steps
        augmented = self._augmented(task, forget, lambda step: progress(step / steps))
        before = task.recommender.logits(forget.prompts)
        after = augmented.logits(forget.prompts)
        teachers = {}
        for alpha in sorted({*_ALPHAS, self.config.alpha}):
            logits = published_forgetting_logits(before, after, alpha)
            teachers[f"ReLU, α = {alpha:g}"] = logits[:, 0] - logits[:, 1]
        return teachers

    def _augmented(self, task: UnlearningTask, forget: Rows, progress: Progress) -> Recommender:
        """Return a copy of the task's recommender that was trained further on the forget rows."""
        config = self.config
        augmented = trainable_copy(task.recommender)
        rate = config.augment_rate * task.recipe.learning_rate
        trained = [p for p in augmented.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate)
        augmented.model.train()
        with seeded_dropout(task.seed):
            for step in range(1, config.augment_steps + 1):
                drawn = forget.draw(config.batch_size)
                prompts, labels = forget.prompts.take(drawn), forget.labels[drawn]
                take_step(augmented, optimizer, partial(_label_loss, augmented, prompts, labels))
                progress(step)
        augmented.model.eval()
        return augmented

    def _joint_loss(
        self,
        student: Recommender,
        forget_prompts: PromptBatch,
        forgetting: torch.Tensor,
        retained: _Retained,
    ) -> torch.Tensor:
        prompts = PromptBatch.cat([forget_prompts, retained.prompts])
        logits = student.live_vocabulary_logits(prompts)
        forget_logits, retain_logits = logits[: len(forget_prompts)], logits[len(forget_prompts) :]
        label_loss = functional.cross_entropy(retain_logits, _targets(student, retained.labels))
        weight = self.config.forget_weight
        return weight * distribution_kl(forgetting, forget_logits) + (1 - weight) * (
            distribution_kl(retained.remembering, retain_logits) + label_loss
        )


class E2URecLong(E2URec):
    """E2URec with ten times as many joint steps, at many times the cost of a compact retraining."""

    name = "e2urec-long"

    def __init__(self, config: E2URecConfig = LONG) -> None:
        """Use the long variant's settings by default."""
        super().__init__(config)


@dataclass(frozen=True, slots=True, eq=False)
class _Teachers:
    """Both teachers, computed for the rows of a step: few rows are drawn twice."""

    original: Recommender
    augmented: Recommender
    alpha: float

    @torch.no_grad()
    def forgetting(self, prompts: PromptBatch) -> torch.Tensor:
        """Return the forgetting teacher's [B, V] logits."""
        return published_forgetting_logits(
            self.original.vocabulary_logits(prompts),
            self.augmented.vocabulary_logits(prompts),
            self.alpha,
        )

    @torch.no_grad()
    def remembering(self, prompts: PromptBatch) -> torch.Tensor:
        """Return the remembering teacher's [B, V] logits."""
        return self.original.vocabulary_logits(prompts)


@dataclass(frozen=True, slots=True, eq=False)
class _Retained:
    """The retained rows of one step, with their labels [B] and the teacher's logits [B, V]."""

    prompts: PromptBatch
    labels: torch.Tensor
    remembering: torch.Tensor

    @classmethod
    def of(cls, teachers: _Teachers, retain: Rows, drawn: torch.Tensor) -> _Retained:
        prompts = retain.prompts.take(drawn)
        return cls(prompts, retain.labels[drawn], teachers.remembering(prompts))


def _forget_loss(
    student: Recommender, prompts: PromptBatch, forgetting: torch.Tensor
) -> torch.Tensor:
    return distribution_kl(forgetting, student.live_vocabulary_logits(prompts))


def _label_loss(
    recommender: Recommender, prompts: PromptBatch, labels: torch.Tensor
) -> torch.Tensor:
    logits = recommender.live_vocabulary_logits(prompts)
    return functional.cross_entropy(logits, _targets(recommender, labels))


def _targets(recommender: Recommender, labels: torch.Tensor) -> torch.Tensor:
    """Return the [B] columns of the right answers, Yes for the label 1."""
    yes, no = recommender.answer_columns
    return torch.where(labels > 0, yes, no)
