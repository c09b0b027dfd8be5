"""E2URec with a closed-form first step and a calibrated teacher: the product's default method.

As in E2URec (arXiv 2403.03536), a LoRA student learns from a forgetting and a remembering teacher,
whose answers are computed once. The steps, each measured in docs/methods.md:

1. Closed form: item rows move to the values that the retained data alone would give.
2. Teachers: the remembering teacher is the model after step 1. The forgetting teacher moves each
   margin against y − σ(margin), the first-order effect of learning more of a row, instead of
   training an augmented model. Its α is solved from the expected loss increase, which a shadow
   model showed on users that it never saw. Both teachers get the offset that makes the mean answer
   on retained rows right.
3. Distillation: a small adapter learns for few steps (low rank and few steps add less noise).
4. Settling: the adapter is scaled so that the loss increase is the expected loss increase.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn import functional

from models.audit.report import expected_mean
from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach, scale
from models.prompts.prompt_batch import PromptBatch
from models.recommender.token_rows import with_rows
from models.recommender.trainable import trainable_parameters
from models.training.step import linear_schedule, memory_report, take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning import losses
from models.unlearning.base import Unlearned, UnlearningMethod, UnlearningTask
from models.unlearning.closed_form import FirstStep
from models.unlearning.finetuning import Order, encode

if TYPE_CHECKING:
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress

#: Standard deviation of the mean margin between models that differ only in their seed.
OFFSET_SPREAD: Final = 0.08
#: Relative distance from the target loss increase below which item rows do not move a second time.
STEP_TOLERANCE: Final = 0.15


#: Names of settings in certificates, job metrics and results.json.
_STORED_NAMES: Final = {
    "evaluation_rows": "look_at",
    "step_size": "reach",
    "max_step_size": "most_reach",
    "overshoot_factor": "drive",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecFastConfig:
    """Settings; docs/methods.md says on which draws the defaults were chosen."""

    #: Maximum number of forget rows, evenly spaced, on which the loss increase is measured.
    evaluation_rows: int = 1024
    #: Pseudo-count of average ratings that shrinks the change of an item's mean toward 0.
    damping: float = 5.0
    #: First and maximum step size of item rows; about a quarter of a step shows in the margins.
    step_size: float = 5.0
    max_step_size: float = 12.0
    #: The share of the expected loss increase that the closed-form step aims at.
    first_share: float = 0.25
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(
            rank=4, alpha=8, dropout=0.0, targets=("value", "output", "embedding")
        )
    )
    learning_rate: float = 3e-3
    warmup_steps: int = 3
    #: Maximum number of steps, and of times that a forget row is shown.
    steps: int = 32
    passes: float = 4.5
    forget_batch: int = 64
    retain_batch: int = 20
    #: Factor on α: how much further than the expected loss increase the teacher goes.
    overshoot_factor: float = 8.0
    #: Range of the adapter's final scale; a larger adapter also changes what it was not taught.
    least_scale: float = 0.3
    most_scale: float = 1.2

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values under the names that earlier results have."""
        values = asdict(self)
        return {_STORED_NAMES.get(name, name): value for name, value in values.items()}

    def stronger(self) -> E2URecFastConfig:
        """Return the settings of the second attempt: more steps and a larger overshoot factor."""
        return replace(
            self,
            steps=self.steps * 2,
            passes=self.passes * 2,
            overshoot_factor=self.overshoot_factor * 1.5,
        )


#: Settings for language models: items are words, so that no row moves in closed form and the
#: adapter does all the forgetting. A step on long prompts takes seconds, not milliseconds.
LANGUAGE: Final = E2URecFastConfig(
    evaluation_rows=256,
    learning_rate=3e-4,
    warmup_steps=2,
    steps=12,
    passes=3.0,
    forget_batch=8,
    retain_batch=8,
    overshoot_factor=2.0,
)


@dataclass(frozen=True)
class E2URecFast(UnlearningMethod):
    """Run the four steps; without `config`, with the measured settings for the kind of release."""

    name = "e2urec-fast"
    calibrated = True
    config: E2URecFastConfig | None = None

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Run the four steps; raises NothingToForgetError and DivergedError."""
        started = time.monotonic()
        config = self._config(task)
        first = _ClosedFormStep(task, config)
        progress(0.2)
        stepped_at = time.monotonic()
        student = attach(first.base, config.adapter, task.seed)
        with seeded_dropout(task.seed):
            _distill(_DistillationBatches(task, config, first), student, progress)
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
                "expected_rise": first.expected,
                "first_rise": first.loss_increase,
                "alpha": first.alpha,
                **settled,
                "trainable_parameters": trainable_parameters(student),
                **memory_report(student),
                "teacher_seconds": stepped_at - started,
                "student_seconds": taught_at - stepped_at,
                "settle_seconds": time.monotonic() - taught_at,
                "config": config.manifest(),
            },
        )

    def _config(self, task: UnlearningTask) -> E2URecFastConfig:
        """Return the settings of this attempt; an adapter that replaces another has its shape."""
        adapter = task.recommender.config.adapter
        if adapter is None:
            config = self.config or E2URecFastConfig()
        else:
            config = replace(self.config or LANGUAGE, adapter=adapter)
        return config.stronger() if task.strength else config

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the forgetting teachers' [F] margins on the forget rows, by name."""
        config = self._config(task)
        first = _ClosedFormStep(task, config)
        prompts, labels = encode(task, task.prepared.forget)
        base_margins = margins(first.base, prompts)
        progress(1.0)
        ahead = losses.one_step_ahead(base_margins, labels)
        teachers = {"first step": base_margins}
        for factor in sorted({1.0, config.overshoot_factor}):
            forgetting = losses.forgetting_margins(base_margins, ahead, first.alpha * factor)
            teachers[f"first step, α × {factor:g}"] = forgetting
        return teachers


class _EvaluationRows:
    """All forget rows, or evenly spaced forget rows where there are many, and their loss before."""

    def __init__(self, task: UnlearningTask, most_rows: int) -> None:
        count = len(task.prepared.forget)
        rows = np.arange(0, count, math.ceil(count / most_rows))
        self.prompts, self.labels = encode(task, task.prepared.forget.take(rows))
        self._before = self._loss(margins(task.recommender, self.prompts))

    def loss_increase(self, row_margins: torch.Tensor) -> float:
        """Return the increase of the mean loss (nats) for a model with these [M] margins."""
        return self._loss(row_margins) - self._before

    def _loss(self, row_margins: torch.Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(row_margins, self.labels).item()


class _ClosedFormStep:
    """Step 1: the base with moved token rows, and the α of the remaining loss increase.

    `expected` is the batch's expected loss increase (nats), `loss_increase` the increase that the
    moved rows have reached (nats). `rows` are the replaced token rows; `step_size` is how far the
    item rows moved.
    """

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig) -> None:
        """Move the rows at most twice, and solve α for the rest of the expected loss increase."""
        task.require_forget_rows()
        self.expected = max(expected_mean(task.prepared, task.expected), 0.0)
        self.evaluation = _EvaluationRows(task, config.evaluation_rows)
        self._items = FirstStep.from_split(task.recommender, task.prepared, config.damping)
        self.step_size = config.step_size
        row_margins = self._move(task.recommender)
        target = config.first_share * self.expected
        if self.loss_increase > 0 and abs(self.loss_increase - target) > STEP_TOLERANCE * target:
            # The loss increase is nearly proportional to the step size.
            proportional = config.step_size * target / self.loss_increase
            self.step_size = min(proportional, config.max_step_size)
            row_margins = self._move(task.recommender)
        labels, remaining = self.evaluation.labels, max(self.expected - self.loss_increase, 0.0)
        ahead = losses.one_step_ahead(row_margins, labels)
        self.alpha = losses.solve_alpha(row_margins, ahead, labels, remaining)

    def _move(self, recommender: Recommender) -> torch.Tensor:
        """Move the rows by the step size; return the base's margins on the evaluation rows."""
        self.rows = self._items.rows(self.step_size)
        self.base = with_rows(recommender, self.rows)
        row_margins = margins(self.base, self.evaluation.prompts)
        self.loss_increase = self.evaluation.loss_increase(row_margins)
        return row_margins


class _DistillationBatches:
    """Steps 2 and 3: the rows of all distillation batches, with the teachers' margins."""

    def __init__(
        self, task: UnlearningTask, config: E2URecFastConfig, first: _ClosedFormStep
    ) -> None:
        """Draw the rows of all steps and compute the teachers' margins on them."""
        prepared, self.config = task.prepared, config
        most = math.ceil(len(prepared.forget) * config.passes / config.forget_batch)
        self.steps = max(1, min(config.steps, most))
        forget, train = prepared.forget, prepared.parts.train
        forget_rows = Order(len(forget), task.seed).draw(self.steps * config.forget_batch)
        retain_rows = Order(len(train), task.seed + 1).draw(self.steps * config.retain_batch)
        self.retain, retain_labels = encode(task, train.take(retain_rows.numpy()))
        remembering = margins(first.base, self.retain)
        offset = losses.answer_offset(remembering, retain_labels, OFFSET_SPREAD)
        # A row that is drawn several times is computed once.
        drawn, position = torch.unique(forget_rows, return_inverse=True)
        prompts, labels = encode(task, forget.take(drawn.numpy()))
        base_margins = margins(first.base, prompts)
        ahead = losses.one_step_ahead(base_margins, labels)
        forgetting = losses.forgetting_margins(
            base_margins, ahead, first.alpha * config.overshoot_factor
        )
        self.forget, self.forgetting = prompts.take(position), forgetting[position] + offset
        self.remembering = remembering + offset

    def loss(self, student: Recommender, step: int) -> torch.Tensor:
        """Return the mean KL (nats) to the teachers over one step's forget and retained rows."""
        forget_size, retain_size = self.config.forget_batch, self.config.retain_batch
        forget = slice(step * forget_size, (step + 1) * forget_size)
        retain = slice(step * retain_size, (step + 1) * retain_size)
        prompts = PromptBatch.cat([self.forget.take(forget), self.retain.take(retain)])
        teachers = torch.cat([self.forgetting[forget], self.remembering[retain]])
        return losses.answer_kl(teachers, live_margins(student, prompts))


def _distill(batches: _DistillationBatches, student: Recommender, progress: Progress) -> None:
    """Train the student once on every batch, with a short warm-up and a linear decay."""
    config = batches.config
    # A batch with few rows has fewer steps, and a lower learning rate.
    rate = config.learning_rate * min(1.0, batches.steps / config.steps)
    trainable = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    schedule = linear_schedule(optimizer, config.warmup_steps, batches.steps)
    student.model.train()
    for step in range(batches.steps):
        take_step(student, optimizer, partial(batches.loss, student, step))
        schedule.step()
        progress(0.2 + 0.7 * (step + 1) / batches.steps)
    student.model.eval()


def _settle(
    student: Recommender, first: _ClosedFormStep, config: E2URecFastConfig
) -> dict[str, float]:
    """Step 4: scale the adapter, to which the loss increase is nearly proportional."""
    reached = first.evaluation.loss_increase(margins(student, first.evaluation.prompts))
    taught = reached - first.loss_increase
    target = first.expected - first.loss_increase
    factor = min(max(target / taught, config.least_scale), config.most_scale) if taught > 0 else 1.0
    scale(student, first.base, factor)
    return {
        "taught_rise": first.loss_increase + taught,
        "scale": factor,
        "reach": first.step_size,
        "reached_rise": first.loss_increase + factor * taught,
    }
