"""The loop of methods that tune all weights on batches of forget and of retained rows.

Knows batches and one optimiser; what is minimised is the method's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from models.prompts.prompt_batch import PromptBatch
from models.recommender.trainable import copy_recommender, set_trainable
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins, margins, seeded_dropout
from models.unlearning.base import NothingToForgetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.data.samples import Samples
    from models.recommender.base import Recommender
    from models.training.trainer import Progress
    from models.unlearning.base import UnlearningTask

#: How often a loop says how far it is.
REPORT_EVERY: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Steps of AdamW on batches of `batch_size` forget rows and as many retained rows."""

    learning_rate: float = 5e-5
    batch_size: int = 128
    steps: int = 300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One step: [B] live margins of both kinds of row, their labels (0/1), the original's margins.

    `forget_rows` [B] index the task's forget rows. The original's are empty unless asked for.
    """

    forget: torch.Tensor
    forget_labels: torch.Tensor
    forget_original: torch.Tensor
    forget_rows: torch.Tensor
    retain: torch.Tensor
    retain_labels: torch.Tensor
    retain_original: torch.Tensor


class Order:
    """Indices of rows in batches: every row once before any comes again."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting = torch.empty(0, dtype=torch.long)

    def draw(self, size: int) -> torch.Tensor:
        """Return [size] indices of the next rows; none where there are no rows."""
        while len(self._waiting) < size and self._count:
            fresh = torch.randperm(self._count, generator=self._generator)
            self._waiting = torch.cat([self._waiting, fresh])
        chosen, self._waiting = self._waiting[:size], self._waiting[size:]
        return chosen


class Rows:
    """Encoded rows with their labels, drawn in batches."""

    def __init__(self, prompts: PromptBatch, labels: torch.Tensor, seed: int) -> None:
        self.prompts, self.labels = prompts, labels
        self._order = Order(len(labels), seed)

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, size: int) -> torch.Tensor:
        """Return the indices of the next rows, `size` or as many as there are."""
        return self._order.draw(min(size, len(self)))


def forget_rows(task: UnlearningTask) -> Rows:
    """Return what is to be forgotten; raises NothingToForgetError where there is nothing."""
    if not len(task.prepared.forget):
        raise NothingToForgetError(NothingToForgetError.__doc__)
    return _rows(task, task.prepared.forget, task.seed)


def retained_rows(task: UnlearningTask) -> Rows:
    """Return the training rows that are kept."""
    return _rows(task, task.prepared.parts.train, task.seed + 1)


def trainable_copy(recommender: Recommender) -> Recommender:
    """Return a copy, all of whose own weights train."""
    student = copy_recommender(recommender)
    set_trainable(student, train=True)
    return student


def tune(
    task: UnlearningTask,
    config: LoopConfig,
    loss: Callable[[Batch], torch.Tensor],
    progress: Progress,
    *,
    with_original: bool = False,
) -> tuple[Recommender, dict[str, Any]]:
    """Return a tuned copy of the task's recommender, and what to report of it.

    Raises NothingToForgetError and DivergedError.
    """
    forget, retain = forget_rows(task), retained_rows(task)
    student = trainable_copy(task.recommender)
    trained = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    student.model.train()
    original = task.recommender if with_original else None
    with seeded_dropout(task.seed):
        for step in range(1, config.steps + 1):
            rows = forget.draw(config.batch_size), retain.draw(config.batch_size)
            batch = partial(_batch, original, student, (forget, retain), rows)
            take_step(student, optimizer, partial(_loss, loss, batch))
            if step % REPORT_EVERY == 0 or step == config.steps:
                progress(step / config.steps)
    student.model.eval().requires_grad_(requires_grad=False)
    return student, {
        "forget_rows": len(forget),
        "steps": config.steps,
        "trainable_parameters": sum(p.numel() for p in trained),
        **memory_report(student),
    }


def _loss(loss: Callable[[Batch], torch.Tensor], batch: Callable[[], Batch]) -> torch.Tensor:
    return loss(batch())


def _batch(
    original: Recommender | None,
    student: Recommender,
    sources: tuple[Rows, Rows],
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> Batch:
    (forget, retain), (gone, kept) = sources, drawn
    both = PromptBatch.cat([forget.prompts.take(gone), retain.prompts.take(kept)])
    # The original answers first, while no activations wait for a backward pass.
    before = margins(original, both) if original else torch.empty(0)
    found = live_margins(student, both)
    count = len(gone)
    return Batch(
        forget=found[:count],
        forget_labels=forget.labels[gone],
        forget_original=before[:count],
        forget_rows=gone,
        retain=found[count:],
        retain_labels=retain.labels[kept],
        retain_original=before[count:],
    )


def _rows(task: UnlearningTask, samples: Samples, seed: int) -> Rows:
    prompts = task.recommender.prompt.samples(samples, task.prepared.retained)
    return Rows(prompts, torch.from_numpy(samples.label), seed)
