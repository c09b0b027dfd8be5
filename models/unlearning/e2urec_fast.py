"""E2URec with a closed-form first step and a calibrated teacher: item rows, then a LoRA student.

From E2URec (arXiv 2403.03536): a forgetting and a remembering teacher, computed once, and a LoRA
student of both. What differs, each measured in docs/methods.md:

- item rows first go where the retained data alone would have them, in closed form;
- no augmented model is trained: to first order, learning more of a row moves its margin along
  y − σ(margin), so the forgetting teacher goes the other way. Its α is solved from the rise in loss
  that a shadow model showed for people it never saw;
- the remembering teacher is what the first step left, with the offset that makes its mean answer
  right on the retained rows;
- the student is small (low rank has less noise), and stops when its own loss has risen far enough.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from models.adapters import AdapterConfig, attach, trainable_parameters, with_rows
from models.item_rows import FirstStep
from models.preparation import KINDS
from models.prompts import Encoded
from models.training import live_margins, margins
from models.unlearning.base import NothingToForgetError, Unlearned, UnlearningMethod, UnlearningTask
from models.unlearning.loops import Order, descend
from models.unlearning.losses import answer_kl, forgetting_margins, one_step_ahead, solve_alpha

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from models.recommender import Recommender
    from models.samples import Samples
    from models.training import ExpectedRise, Progress

#: At most so many forget rows are looked at to see how far the loss has risen.
LOOK_AT: Final = 768
#: Item rows that come so near their share (relatively) are left where they are.
NEAR: Final = 0.15
#: How much the mean margins of models differ that only their seed sets apart.
OFFSET_SPREAD: Final = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecFastConfig:
    """Everything that can be set; the defaults were chosen on ml-latest-small."""

    #: An item's mean counts as if it had this many more ratings, all as expected.
    damping: float = 5.0
    #: How far item rows go along their way at first, and at most; about a quarter of it arrives.
    reach: float = 7.5
    most_reach: float = 15.0
    #: The share of the expected rise that the item rows should bring about.
    first_share: float = 0.75
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(
            rank=4, alpha=8, dropout=0.0, targets=("value", "output", "embedding")
        )
    )
    learning_rate: float = 3e-3
    warmup_steps: int = 3
    #: A round has at most so many steps, and no more than show each row `passes` times.
    steps: int = 20
    passes: float = 3.0
    rounds: int = 6
    forget_batch: int = 80
    retain_batch: int = 48
    #: How much further than the expected rise the teacher is driven.
    drive: float = 2.0
    #: The share of the expected rise at which the student stops.
    enough: float = 0.75

    def stronger(self) -> E2URecFastConfig:
        """Return the settings of the second try."""
        return replace(self, rounds=self.rounds * 2, drive=self.drive * 1.5, enough=0.9)


def expected_rise(kinds: NDArray[np.int64], expected: Mapping[str, ExpectedRise]) -> float:
    """Return the mean rise in loss (nats) that these [F] forget rows should show."""
    values = [expected[kind].mean if kind in expected else 0.0 for kind in KINDS]
    return float(sum(value * float((kinds == i).mean()) for i, value in enumerate(values)))


class E2URecFast(UnlearningMethod):
    """The product's default method."""

    name = "e2urec-fast"
    calibrated = True

    def __init__(self, config: E2URecFastConfig | None = None) -> None:
        """Use `config`, or the measured defaults."""
        self.config = config or E2URecFastConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Move the item rows, then train a fresh adapter until the loss has risen far enough.

        Raises NothingToForgetError and DivergedError.
        """
        started = time.monotonic()
        config = self.config.stronger() if task.strength else self.config
        first = _First(task, config)
        progress(0.1)
        stepped_at = time.monotonic()
        student = attach(first.base, config.adapter, task.seed)
        rounds = _train(_Lesson(task, config, first), student, first, progress)
        return Unlearned(
            recommender=student,
            adapter=config.adapter,
            rows=first.rows,
            metrics={
                "forget_rows": len(task.prepared.forget),
                "item_rows": len(first.rows.slots),
                "expected_rise": first.rise,
                "first_rise": first.first,
                "reached_rise": first.reached,
                "reach": first.reach,
                "alpha": first.alpha,
                "rounds": rounds,
                "trainable_parameters": trainable_parameters(student),
                "teacher_seconds": stepped_at - started,
                "student_seconds": time.monotonic() - stepped_at,
                "config": asdict(config),
            },
        )

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return what is taught, before any student: [F] margins on the forget rows, by name."""
        first = _First(task, self.config)
        prompts, labels = _encode(task, task.prepared.forget)
        found = margins(first.base, prompts)
        progress(1.0)
        ahead = one_step_ahead(found, labels)
        return {"item rows": found} | {
            f"item rows, α × {drive:g}": forgetting_margins(found, ahead, first.alpha * drive)
            for drive in sorted({1.0, self.config.drive})
        }


def _encode(task: UnlearningTask, samples: Samples) -> tuple[Encoded, torch.Tensor]:
    prompts = task.recommender.prompt.samples(samples, task.prepared.retained)
    return prompts, torch.from_numpy(samples.label)


class _First:
    """The first step: the base with its item rows moved, and how far forgetting still has to go.

    Looks at all forget rows or, where there are many, at evenly spaced ones.
    """

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig) -> None:
        """Move the item rows until they bring about their share, and solve α for the rest."""
        prepared = task.prepared
        if not len(prepared.forget):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        self.rise = max(expected_rise(prepared.forget_kind, task.expected), 0.0)
        stride = math.ceil(len(prepared.forget) / LOOK_AT)
        self.looked_at = torch.arange(0, len(prepared.forget), stride)
        looked_at = prepared.forget.take(self.looked_at.numpy())
        self._prompts, self._labels = _encode(task, looked_at)
        self._before = self._loss(margins(task.recommender, self._prompts))
        step = FirstStep.of(task.recommender, prepared, config.damping)
        self.reach = config.reach
        self._move(task, step)
        wanted = config.first_share * self.rise
        if self.first > 0 and abs(self.first - wanted) > NEAR * wanted:
            # The rise is nearly proportional to the reach.
            self.reach = min(config.reach * wanted / self.first, config.most_reach)
            self._move(task, step)
        self.reached = self.first
        ahead = one_step_ahead(self.found, self._labels)
        rest = max(self.rise - self.first, 0.0)
        self.alpha = solve_alpha(self.found, ahead, self._labels, rest)

    def _move(self, task: UnlearningTask, step: FirstStep) -> None:
        self.rows = step.rows(self.reach)
        self.base = with_rows(task.recommender, self.rows)
        self.found = margins(self.base, self._prompts)
        self.first = self._loss(self.found) - self._before

    def look(self, student: Recommender) -> float:
        """Return the rise (nats) that a student has reached."""
        self.reached = self._loss(margins(student, self._prompts)) - self._before
        return self.reached

    def _loss(self, found: torch.Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(found, self._labels).item()


class _Lesson:
    """What one round teaches: rows of both kinds, with the teachers' answers to them."""

    def __init__(self, task: UnlearningTask, config: E2URecFastConfig, first: _First) -> None:
        self.config, self._task, self._first = config, task, first
        forget, retain = task.prepared.forget, task.prepared.parts.train
        most = math.ceil(len(forget) * config.passes / config.forget_batch)
        self.steps = max(1, min(config.steps, most))
        self._forget = Order(len(forget), task.seed)
        self._retain = Order(len(retain), task.seed + 1)
        #: The base's [F] margins on the forget rows; NaN where they have not been computed.
        self._found = torch.full((len(forget),), torch.nan)
        self._found[first.looked_at] = first.found

    def rows(self) -> tuple[Encoded, torch.Tensor, Encoded, torch.Tensor]:
        """Return prompts and teachers' margins of the forget rows and of the retained rows."""
        config, prepared = self.config, self._task.prepared
        lost = self._forget.draw(self.steps * config.forget_batch)
        held = self._retain.draw(self.steps * config.retain_batch)
        retain, liked = _encode(self._task, prepared.parts.train.take(held.numpy()))
        remembering = margins(self._first.base, retain)
        offset = _offset(remembering, liked)
        seen, back = torch.unique(lost, return_inverse=True)
        forget, labels = _encode(self._task, prepared.forget.take(seen.numpy()))
        new = self._found[seen].isnan()
        self._found[seen[new]] = margins(self._first.base, forget.take(new))
        now = self._found[seen]
        ahead = one_step_ahead(now, labels)
        forgetting = forgetting_margins(now, ahead, self._first.alpha * config.drive)
        return forget.take(back), forgetting[back] + offset, retain, remembering + offset


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


def _train(lesson: _Lesson, student: Recommender, first: _First, progress: Progress) -> int:
    """Teach until enough is forgotten; return the rounds it took."""
    config = lesson.config
    rate = config.learning_rate * lesson.steps / config.steps  # A short round goes in small steps.
    trainable = [p for p in student.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    student.model.train()
    done = 0
    for done in range(1, config.rounds + 1):
        for step, loss in enumerate(_losses(lesson, student)):
            warm = min(1.0, (step + 1) / config.warmup_steps) * (1 - step / lesson.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate * warm
            descend(loss, optimiser)
        progress(0.1 + 0.9 * done / config.rounds)
        if first.look(student) >= config.enough * first.rise:
            break
    student.model.eval()
    return done


def _losses(lesson: _Lesson, student: Recommender) -> Iterator[torch.Tensor]:
    """Yield the loss of each step: KL to both teachers, every row with the same weight."""
    forget, forgetting, retain, remembering = lesson.rows()
    size = lesson.config.forget_batch, lesson.config.retain_batch
    for step in range(lesson.steps):
        lost = slice(step * size[0], (step + 1) * size[0])
        held = slice(step * size[1], (step + 1) * size[1])
        both = Encoded.cat([forget.take(lost), retain.take(held)])
        teachers = torch.cat([forgetting[lost], remembering[held]])
        yield answer_kl(teachers, live_margins(student, both))
