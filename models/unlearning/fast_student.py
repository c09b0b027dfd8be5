"""The teachers of `e2urec-fast`, the rounds in which a student learns, and its settling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from models.audit.memorization import forgetting_change
from models.checkpoints.adapter import scale
from models.data.samples import evenly_spaced
from models.prompts.prompt_batch import PromptBatch
from models.recommender.returned_rows import returned_rows
from models.recommender.token_rows import with_rows
from models.training.step import linear_schedule, take_step
from models.training.trainer import live_margins, margins
from models.unlearning import losses
from models.unlearning.finetuning import Order, encode

if TYPE_CHECKING:
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.e2urec_fast import E2URecFastConfig

#: Squared distance to the teacher, over the base's, that is too far for a noisy student.
_CLEARLY_FARTHER: Final = 1.25
#: Maximum number of times that the adapter of a noisy student is scaled to half.
_MOST_HALVINGS: Final = 3


class Teachers:
    """Steps 1 and 2: the base with returned item rows, and what the forgetting teacher changes.

    `prompts` and `labels` [F] are those of the forget rows, `original` [F] the margins of the
    task's recommender, `change` [F] the change of the forgetting teacher over the base.
    """

    def __init__(self, task: UnlearningTask) -> None:
        """Compute the margins of all forget rows; raises NothingToForgetError."""
        task.require_forget_rows()
        self.prompts, self.labels = encode(task, task.prepared.forget)
        self.original = margins(task.recommender, self.prompts)
        self.rows = returned_rows(task.recommender, task.prepared)
        self.base = with_rows(task.recommender, self.rows)
        change = forgetting_change(task.prepared, self.original.double().numpy(), task.memorization)
        self.change = torch.from_numpy(change).to(self.original.dtype)

    def remembering(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the base's [M] margins on M of the forget rows.

        Without returned item rows the base is the task's recommender, so nothing is computed again.
        """
        if not len(self.rows.tokens):
            return self.original[rows]
        return margins(self.base, self.prompts.take(rows))

    @property
    def teaches(self) -> bool:
        """Return whether the forgetting teacher differs from the base."""
        return bool(self.change.any())


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The distillation batches of one round, in order, with the teachers' margins on each row."""

    forget: PromptBatch
    forgetting: torch.Tensor
    retain: PromptBatch
    remembering: torch.Tensor
    steps: int

    def loss(self, student: Recommender, step: int) -> torch.Tensor:
        """Return the mean KL (nats) to the teachers over one step's forget and retained rows."""
        forget = self._rows(step, len(self.forgetting))
        retain = self._rows(step, len(self.remembering))
        prompts = PromptBatch.cat([self.forget.take(forget), self.retain.take(retain)])
        teachers = torch.cat([self.forgetting[forget], self.remembering[retain]])
        return losses.answer_kl(teachers, live_margins(student, prompts))

    def _rows(self, step: int, count: int) -> slice:
        """Return the step's share of a number of rows."""
        return slice(step * count // self.steps, (step + 1) * count // self.steps)


class Rounds:
    """Step 3: draw the batches of each round and train the student on them."""

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig, teachers: Teachers) -> None:
        """Prepare the order of the rows; nothing is computed before `teach`."""
        self._task, self._config, self._teachers = task, config, teachers
        self.steps = config.steps_for(len(task.prepared.forget))
        self._rate = config.rate_for(len(task.prepared.forget))
        self._forget = Order(len(task.prepared.forget), task.seed)
        self._retain = Order(len(task.prepared.parts.train), task.seed + 1)

    def teach(self, number: int, student: Recommender, progress: Progress) -> None:
        """Train the student on the batches of a round, with a short warm-up and a linear decay.

        Rounds are numbered from 0. Each takes the next rows and has a schedule of its own. Raises
        DivergedError.
        """
        config, batches = self._config, self._draw(number)
        trainable = [p for p in student.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self._rate, weight_decay=0.0)
        schedule = linear_schedule(optimizer, config.warmup_steps, self.steps)
        student.model.train()
        for step in range(self.steps):
            take_step(student, optimizer, partial(batches.loss, student, step))
            schedule.step()
            progress((step + 1) / self.steps)
        student.model.eval()

    def _draw(self, number: int) -> Batches:
        """Return the batches of a round, which has twice as many forget rows as the round before.

        The margins of a row that is drawn several times are computed once.
        """
        config, teachers = self._config, self._teachers
        forget = self._forget.draw(self.steps * config.forget_batch * 2**number)
        retain = self._retain.draw(self.steps * config.retain_batch)
        retained, _ = encode(self._task, self._task.prepared.parts.train.take(retain.numpy()))
        drawn, position = torch.unique(forget, return_inverse=True)
        base_margins = teachers.remembering(drawn)[position]
        return Batches(
            forget=teachers.prompts.take(forget),
            forgetting=base_margins + config.overshoot_factor * teachers.change[forget],
            retain=retained,
            remembering=margins(teachers.base, retained),
            steps=self.steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a student moved, as a multiple of the forgetting teacher's change (`size`).

    `factor` is the scale of the student's adapter that comes nearest to the size 1 within the
    limits of `Settling`. `enough` says whether the scaled student has the size 1, and `noisy`
    whether a larger factor would leave the student farther from the teacher than the base. `first`
    and `reached` are the loss increases (nats) of the evaluation rows over the release: of the
    base, and of the scaled student.
    """

    size: float
    factor: float
    enough: bool
    noisy: bool
    first: float
    reached: float

    def metrics(self) -> dict[str, float]:
        """Return the figures under the names of job metrics and results."""
        return {
            "first_rise": self.first,
            "taught_size": self.size,
            "scale": self.factor,
            "reached_rise": self.reached,
        }


class Settling:
    """Step 4: measure the student on evaluation rows, and find the scale of its adapter.

    The size of the student's change is its projection on the teacher's, to which it is nearly
    proportional. A student that moved the other way is scaled to nothing. A student whose change
    is mostly noise is scaled down until its answers are, on average, not clearly farther from the
    teacher's than the base's answers.
    """

    def __init__(self, teachers: Teachers, config: E2URecFastConfig) -> None:
        """Choose evenly spaced forget rows and compute the base's margins on them."""
        rows = torch.from_numpy(evenly_spaced(len(teachers.labels), config.evaluation_rows))
        self._prompts, self._labels = teachers.prompts.take(rows), teachers.labels[rows]
        self._before, self._change = teachers.remembering(rows), teachers.change[rows]
        self._original, self._most = teachers.original[rows], config.most_scale
        self._base = teachers.base

    def measure(self, student: Recommender) -> Reach:
        """Return how far the unscaled student moved."""
        moved = margins(student, self._prompts) - self._before
        product = (moved @ self._change).item()
        # Squares of very small numbers are 0.
        squared, squared_move = (self._change @ self._change).item(), (moved @ moved).item()
        size = product / squared if squared else 0.0
        factor, enough, noisy = 0.0, False, False
        if size > 0 and squared_move:
            # The squared distance to the teacher is a parabola in the factor, lowest at half of
            # `no_nearer`.
            no_nearer = 2 * product / squared_move
            wanted = min(1 / size, self._most)
            factor, noisy = min(wanted, no_nearer), no_nearer < wanted
            enough = not noisy and wanted == 1 / size
        return Reach(
            size=size,
            factor=factor,
            enough=enough,
            noisy=noisy,
            first=self._loss_increase(self._before),
            reached=self._loss_increase(self._before + factor * moved),
        )

    def settle(self, student: Recommender, reach: Reach) -> Reach:
        """Scale the student's adapter, and return the reach with the final factor.

        Answers are not quite proportional to the adapter. A noisy student is therefore measured
        again, and scaled to half as long as it is clearly farther from the teacher than the base.
        """
        factor = reach.factor
        scale(student, self._base, factor)
        for _ in range(_MOST_HALVINGS if reach.noisy else 0):
            if not self._is_farther(student):
                break
            scale(student, self._base, 0.5)
            factor *= 0.5
        return replace(reach, factor=factor)

    def _is_farther(self, student: Recommender) -> bool:
        moved = margins(student, self._prompts) - self._before
        distance = (moved - self._change).square().sum()
        return bool(distance > _CLEARLY_FARTHER * self._change.square().sum())

    def _loss_increase(self, row_margins: torch.Tensor) -> float:
        original = functional.binary_cross_entropy_with_logits(self._original, self._labels)
        after = functional.binary_cross_entropy_with_logits(row_margins, self._labels)
        return (after - original).item()
