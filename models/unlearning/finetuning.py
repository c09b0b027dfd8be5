"""Tune all weights of a copy on batches of forget rows and retained rows.

Shared by the methods that differ only in the loss: `finetune`, `neggrad`, `neggrad_calibrated`,
`badt`, `npo` and `simnpo`. The encoding and drawing of rows is also used by `scrub`, `e2urec`,
`e2urec_fast` and `receraser`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from models.prompts.prompt_batch import PromptBatch
from models.recommender.trainable import (
    copy_recommender,
    set_trainable,
    trainable_parameters,
)
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning.base import Unlearned

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.data.samples import Samples
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask

#: Steps between two calls of the progress callback.
REPORT_EVERY: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Steps of AdamW on batches of `batch_size` forget rows and as many retained rows."""

    #: Learning rate as a share of the recipe's: a published rate belongs to the published model.
    rate_share: float = 0.1
    batch_size: int = 16
    steps: int = 3000
    #: Passes over the forget rows; replaces `steps`.
    epochs: float | None = None

    def count(self, rows: int) -> int:
        """Return the number of steps for this number of forget rows, at least 1."""
        if self.epochs is None:
            return self.steps
        return max(1, math.ceil(self.epochs * rows / self.batch_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """Base of the methods' configs: the loop, to which a method adds its loss's settings."""

    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One step's rows: [B] live margins, [B] labels (0 or 1) and [B] margins of the original.

    The tensors of forget rows are empty where `tune` was called without `with_forget`, and the
    original's margins where it was called without `with_original`.
    """

    forget: torch.Tensor
    forget_labels: torch.Tensor
    forget_original: torch.Tensor
    retain: torch.Tensor
    retain_labels: torch.Tensor
    retain_original: torch.Tensor


class Order:
    """Random row indices in batches; every row is drawn once before any row repeats."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._remaining = torch.empty(0, dtype=torch.long)

    def draw(self, size: int) -> torch.Tensor:
        """Return the indices [size] of the next rows; empty if there are no rows."""
        while len(self._remaining) < size and self._count:
            permutation = torch.randperm(self._count, generator=self._generator)
            self._remaining = torch.cat([self._remaining, permutation])
        drawn, self._remaining = self._remaining[:size], self._remaining[size:]
        return drawn


class Rows:
    """Prompts with their labels, drawn in batches."""

    def __init__(self, prompts: PromptBatch, labels: torch.Tensor, seed: int) -> None:
        self.prompts, self.labels = prompts, labels
        self._order = Order(len(labels), seed)

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, size: int) -> torch.Tensor:
        """Return the indices of the next rows: `size`, or all rows if there are fewer."""
        return self._order.draw(min(size, len(self)))


def encode(task: UnlearningTask, samples: Samples) -> tuple[PromptBatch, torch.Tensor]:
    """Return the prompts of M samples and their [M] labels (0 or 1)."""
    prompts = task.recommender.prompt.samples(samples, task.prepared.retained)
    return prompts, torch.from_numpy(samples.label)


def forget_rows(task: UnlearningTask) -> Rows:
    """Return the rows to forget; raises NothingToForgetError if there are none."""
    task.require_forget_rows()
    return Rows(*encode(task, task.prepared.forget), task.seed)


def retained_rows(task: UnlearningTask) -> Rows:
    """Return the retained training rows."""
    return Rows(*encode(task, task.prepared.parts.train), task.seed + 1)


def trainable_copy(recommender: Recommender) -> Recommender:
    """Return a copy in which all of the recommender's own weights train."""
    student = copy_recommender(recommender)
    set_trainable(student, train=True)
    return student


def tune(
    task: UnlearningTask,
    config: TuningConfig,
    loss: Callable[[Batch], torch.Tensor],
    progress: Progress,
    *,
    with_original: bool = False,
    with_forget: bool = True,
    is_done: Callable[[Recommender, int], bool] | None = None,
) -> Unlearned:
    """Minimize `loss` over a copy of the task's recommender, and return the copy.

    `is_done` receives the copy and the number of steps taken, after every step, and ends the loop
    by True. Raises NothingToForgetError and DivergedError.
    """
    loop = config.loop
    forget, retain = forget_rows(task), retained_rows(task)
    student = trainable_copy(task.recommender)
    trained = [p for p in student.model.parameters() if p.requires_grad]
    rate = loop.rate_share * task.recipe.learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    student.model.train()
    original = task.recommender if with_original else None
    steps, taken = loop.count(len(forget)), 0
    with seeded_dropout(task.seed):
        for step in range(1, steps + 1):
            forget_drawn = forget.draw(loop.batch_size if with_forget else 0)
            rows = forget_drawn, retain.draw(loop.batch_size)
            batch_of = partial(_batch, original, student, (forget, retain), rows)
            take_step(student, optimizer, partial(_loss, loss, batch_of))
            taken = step
            if step % REPORT_EVERY == 0 or step == steps:
                progress(step / steps)
            if is_done is not None and is_done(student, step):
                break
    return finished(student, len(forget), taken, asdict(config))


def finished(
    student: Recommender, forget_rows: int, steps: int, config: dict[str, Any]
) -> Unlearned:
    """Return a copy whose weights were tuned, frozen, with the figures of the run."""
    trained = trainable_parameters(student)
    student.model.eval().requires_grad_(requires_grad=False)
    return Unlearned(
        recommender=student,
        adapter=None,
        metrics={
            "forget_rows": forget_rows,
            "steps": steps,
            "trainable_parameters": trained,
            **memory_report(student),
            "config": config,
        },
    )


def _loss(loss: Callable[[Batch], torch.Tensor], batch_of: Callable[[], Batch]) -> torch.Tensor:
    return loss(batch_of())


def _batch(
    original: Recommender | None,
    student: Recommender,
    sources: tuple[Rows, Rows],
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> Batch:
    (forget, retain), (forget_drawn, retain_drawn) = sources, drawn
    prompts = PromptBatch.cat(
        [forget.prompts.take(forget_drawn), retain.prompts.take(retain_drawn)]
    )
    # Before the student, whose activations take memory until the backward pass.
    original_margins = margins(original, prompts) if original else torch.empty(0)
    student_margins = live_margins(student, prompts)
    count = len(forget_drawn)
    return Batch(
        forget=student_margins[:count],
        forget_labels=forget.labels[forget_drawn],
        forget_original=original_margins[:count],
        retain=student_margins[count:],
        retain_labels=retain.labels[retain_drawn],
        retain_original=original_margins[count:],
    )
