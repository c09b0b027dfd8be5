"""E2URec with a closed-form first step and a calibrated teacher: token rows, then a LoRA student.

From E2URec (arXiv 2403.03536): a forgetting and a remembering teacher, computed once, and a LoRA
student of both. What differs, each measured in docs/methods.md:

- item rows first go where the retained data alone would have them, and the two answers draw
  together, because less data makes less sure models: both in closed form;
- no augmented model is trained: to first order, learning more of a row moves its margin along
  y − σ(margin), so the forgetting teacher goes the other way. Its α is solved from the rise in loss
  that a shadow model showed for people it never saw;
- the remembering teacher is what the first step left, with the offset that makes its mean answer
  right on the retained rows;
- the student is small and short (low rank and few steps have less noise); then its size, and how
  far the item rows go, are settled so that the loss has risen as far as expected.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from models.audit.report import expectation
from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach, scale
from models.prompts.prompt_batch import PromptBatch
from models.recommender.token_rows import with_rows
from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning.base import (
    NothingToForgetError,
    Unlearned,
    UnlearningMethod,
    UnlearningTask,
)
from models.unlearning.closed_form import FirstStep, removed_samples, shrunk_answers
from models.unlearning.finetuning import Order
from models.unlearning.losses import answer_kl, forgetting_margins, one_step_ahead, solve_alpha

if TYPE_CHECKING:
    from models.data.samples import Samples
    from models.recommender.base import Recommender
    from models.training.trainer import Progress

#: How much the mean margins of models differ that only their seed sets apart.
OFFSET_SPREAD: Final = 0.08
#: Item rows that come so near their share (relatively) are left where they are.
NEAR: Final = 0.15
#: One batch never shrinks margins below this share, however much of the data leaves with it.
MIN_TEMPERATURE_FACTOR: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecFastConfig:
    """Everything that can be set; the defaults were chosen on ml-latest-small."""

    #: At most so many forget rows, evenly spaced, are looked at to see how far the loss has risen.
    evaluation_rows: int = 1024
    #: An item's mean counts as if it had this many more ratings, all as expected.
    damping: float = 5.0
    #: How far item rows go along their way at first, and at most; about a quarter of it arrives.
    step_size: float = 5.0
    max_step_size: float = 12.0
    #: The share of the expected rise that the first step should bring about.
    first_share: float = 0.4
    #: Margins shrink to the share of training rows that stay, to this power: many batches come to
    #: what one would.
    temperature_shrinkage: float = 0.4
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(
            rank=4, alpha=8, dropout=0.0, targets=("value", "output", "embedding")
        )
    )
    learning_rate: float = 3e-3
    warmup_steps: int = 3
    #: At most so many steps, and no more than show each row `passes` times.
    steps: int = 22
    passes: float = 3.0
    forget_batch: int = 64
    retain_batch: int = 40
    #: How much further than the expected rise the teacher is driven.
    overshoot_factor: float = 4.0
    #: Between which factors the trained adapter may be scaled to reach the expected rise.
    least_scale: float = 0.3
    most_scale: float = 1.2

    def stronger(self) -> E2URecFastConfig:
        """Return the settings of the second try: a longer and harder lesson."""
        return replace(
            self,
            steps=self.steps * 2,
            passes=self.passes * 2,
            overshoot_factor=self.overshoot_factor * 1.5,
        )


#: Where items are words, no row moves in closed form, and the lesson does all the work, in an
#: adapter of the release's shape. A step on long prompts takes seconds, not milliseconds.
LANGUAGE: Final = E2URecFastConfig(
    evaluation_rows=256,
    learning_rate=3e-4,
    warmup_steps=2,
    steps=12,
    forget_batch=8,
    retain_batch=8,
    overshoot_factor=2.0,
)


class E2URecFast(UnlearningMethod):
    """The product's default method."""

    name = "e2urec-fast"
    calibrated = True

    def __init__(
        self, config: E2URecFastConfig | None = None, language: E2URecFastConfig | None = None
    ) -> None:
        """Use `config`, and `language` on adapters of language models, or the measured defaults."""
        self.config = config or E2URecFastConfig()
        self.language = language or config or LANGUAGE

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Move token rows, train a fresh adapter, and settle both at the expected rise.

        Raises NothingToForgetError and DivergedError.
        """
        started = time.monotonic()
        config = self._config(task)
        first = _First(task, config)
        progress(0.2)
        stepped_at = time.monotonic()
        student = attach(first.base, config.adapter, task.seed)
        with seeded_dropout(task.seed):
            _train(_DistillationBatch(task, config, first), student, progress)
        taught_at = time.monotonic()
        settled = _settle(student, first, config)
        progress(1.0)
        return Unlearned(
            recommender=student,
            adapter=None if task.recommender.config.adapter else config.adapter,
            rows=first.rows,
            metrics={
                "forget_rows": len(task.prepared.forget),
                "token_rows": len(first.rows.tokens),
                "expected_rise": first.loss_increase,
                "first_rise": first.first,
                "alpha": first.alpha,
                **settled,
                "trainable_parameters": trainable_parameters(student),
                **memory_report(student),
                "teacher_seconds": stepped_at - started,
                "student_seconds": taught_at - stepped_at,
                "settle_seconds": time.monotonic() - taught_at,
                "config": asdict(config),
            },
        )

    def _config(self, task: UnlearningTask) -> E2URecFastConfig:
        """Return the settings for this try; an adapter that replaces another has its shape."""
        own = task.recommender.config.adapter
        config = self.config if own is None else replace(self.language, adapter=own)
        return config.stronger() if task.strength else config

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return what is taught, before any student: [F] margins on the forget rows, by name."""
        config = self._config(task)
        first = _First(task, config)
        prompts, labels = _encode(task, task.prepared.forget)
        found = margins(first.base, prompts)
        progress(1.0)
        ahead = one_step_ahead(found, labels)
        return {"first step": found} | {
            f"first step, α × {overshoot_factor:g}": forgetting_margins(
                found, ahead, first.alpha * overshoot_factor
            )
            for overshoot_factor in sorted({1.0, config.overshoot_factor})
        }


def _encode(task: UnlearningTask, samples: Samples) -> tuple[PromptBatch, torch.Tensor]:
    prompts = task.recommender.prompt.samples(samples, task.prepared.retained)
    return prompts, torch.from_numpy(samples.label)


class _First:
    """The first step: the base with its token rows moved, and how far forgetting still has to go.

    Looks at all forget rows or, where there are many, at evenly spaced ones.
    """

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig) -> None:
        """Move the rows, see what that brought about, and solve α for the rest."""
        prepared = task.prepared
        if not len(prepared.forget):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        self.loss_increase = max(expectation(prepared, task.expected).mean, 0.0)
        stride = math.ceil(len(prepared.forget) / config.evaluation_rows)
        evaluated = prepared.forget.take(np.arange(0, len(prepared.forget), stride))
        self._prompts, self._labels = _encode(task, evaluated)
        self._before = self._loss(margins(task.recommender, self._prompts))
        self._step = FirstStep.from_split(task.recommender, prepared, config.damping)
        gone = len(removed_samples(prepared))
        share = gone / max(gone + len(prepared.parts.train), 1)
        self._shrunk = shrunk_answers(
            task.recommender,
            max(MIN_TEMPERATURE_FACTOR, (1 - share) ** config.temperature_shrinkage),
        )
        self.step_size = config.step_size
        self._move(task.recommender)
        wanted = config.first_share * self.loss_increase
        if self.first > 0 and abs(self.first - wanted) > NEAR * wanted:
            # The rise is nearly proportional to the reach.
            self.step_size = min(config.step_size * wanted / self.first, config.max_step_size)
            self._move(task.recommender)
        ahead = one_step_ahead(self.found, self._labels)
        rest = max(self.loss_increase - self.first, 0.0)
        self.alpha = solve_alpha(self.found, ahead, self._labels, rest)

    def _move(self, recommender: Recommender) -> None:
        self.rows = self._step.rows(self.step_size) + self._shrunk
        self.base = with_rows(recommender, self.rows)
        self.found = margins(self.base, self._prompts)
        self.first = self._loss(self.found) - self._before

    def evaluate(self, student: Recommender) -> float:
        """Return the rise (nats) that a student has reached."""
        return self._loss(margins(student, self._prompts)) - self._before

    def _loss(self, found: torch.Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(found, self._labels).item()


class _DistillationBatch:
    """What is taught: rows of both kinds, with the teachers' answers to them."""

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig, first: _First) -> None:
        """Draw the rows of all steps and let the teachers answer them."""
        prepared, self.config = task.prepared, config
        most = math.ceil(len(prepared.forget) * config.passes / config.forget_batch)
        self.steps = max(1, min(config.steps, most))
        lost = Order(len(prepared.forget), task.seed).draw(self.steps * config.forget_batch)
        held = Order(len(prepared.parts.train), task.seed + 1).draw(
            self.steps * config.retain_batch
        )
        self.retain, liked = _encode(task, prepared.parts.train.take(held.numpy()))
        remembering = margins(first.base, self.retain)
        offset = _offset(remembering, liked)
        seen, back = torch.unique(lost, return_inverse=True)
        forget, labels = _encode(task, prepared.forget.take(seen.numpy()))
        now = margins(first.base, forget)
        ahead = one_step_ahead(now, labels)
        forgetting = forgetting_margins(now, ahead, first.alpha * config.overshoot_factor)
        self.forget, self.forgetting = forget.take(back), forgetting[back] + offset
        self.remembering = remembering + offset

    def loss(self, student: Recommender, step: int) -> torch.Tensor:
        """Return the loss of a step: KL to both teachers, every row with the same weight."""
        size = self.config.forget_batch, self.config.retain_batch
        lost = slice(step * size[0], (step + 1) * size[0])
        held = slice(step * size[1], (step + 1) * size[1])
        both = PromptBatch.cat([self.forget.take(lost), self.retain.take(held)])
        teachers = torch.cat([self.forgetting[lost], self.remembering[held]])
        return answer_kl(teachers, live_margins(student, both))


def _offset(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the constant that makes the mean answer right, added to [B] margins.

    The most probable one where such constants have a standard deviation of OFFSET_SPREAD: a few
    rows know little of it.
    """
    offset = torch.zeros(())
    for _ in range(4):
        probability = torch.sigmoid(found + offset)
        slope = (labels - probability).sum() - offset / OFFSET_SPREAD**2
        curvature = (probability * (1 - probability)).sum() + 1 / OFFSET_SPREAD**2
        offset = offset + slope / curvature
    return offset


def _train(
    distillation_batch: _DistillationBatch, student: Recommender, progress: Progress
) -> None:
    """Teach the lesson once, with a short warm-up and a linear decay."""
    config = distillation_batch.config
    rate = config.learning_rate * min(
        1.0, distillation_batch.steps / config.steps
    )  # Few rows, small steps.
    trainable = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    student.model.train()
    for step in range(distillation_batch.steps):
        warm = min(1.0, (step + 1) / config.warmup_steps) * (1 - step / distillation_batch.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm
        take_step(student, optimizer, partial(distillation_batch.loss, student, step))
        progress(0.2 + 0.7 * (step + 1) / distillation_batch.steps)
    student.model.eval()


def _settle(student: Recommender, first: _First, config: E2URecFastConfig) -> dict[str, float]:
    """Scale the adapter so that the loss has risen as expected, to which it is nearly proportional.

    The bounds are narrow, because a longer adapter also moves what it was not taught.
    """
    taught = first.evaluate(student) - first.first
    wanted = first.loss_increase - first.first
    factor = min(max(wanted / taught, config.least_scale), config.most_scale) if taught > 0 else 1.0
    scale(student, first.base, factor)
    return {
        "taught_rise": first.first + taught,
        "scale": factor,
        "reach": first.step_size,
        "reached_rise": first.first + factor * taught,
    }
