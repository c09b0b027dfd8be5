"""E2URec with a calibrated teacher and a closed loop: a LoRA student of two teachers.

From E2URec (arXiv 2403.03536): the augmented model, the forgetting and the remembering teacher,
logits of the teachers computed once, and a LoRA student. What differs, each measured in
docs/methods.md: the teacher has no ReLU and its α is found from the rise in loss that a shadow
model showed for people it never saw; the student has adapters on all layers and the embeddings; it
follows a teacher that is driven further than that rise, and stops when its own loss has risen so
far, because a student generalises about half of the way back.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from models.adapters import AdapterConfig, attach, trainable_parameters
from models.preparation import KINDS
from models.prompts import Encoded
from models.recommender import Recommender
from models.training import DivergedError, live_margins, margins
from models.unlearning.base import NothingToForgetError, Unlearned, UnlearningTask
from models.unlearning.losses import answer_kl, forgetting_margins, solve_alpha

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from models.training import ExpectedRise, Progress

#: More forget rows than this are sampled when the loop looks at how far the student has come.
LOOK_AT: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecFastConfig:
    """Everything that can be set; the defaults were chosen on ml-latest-small."""

    augment_rate: float = 5e-4
    augment_passes: int = 2
    augment_least_steps: int = 12
    augment_batch: int = 64
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    most_steps: int = 300
    forget_batch: int = 128
    retain_batch: int = 128
    #: Weight of the forgetting teacher; the remembering teacher has one minus it.
    forget_weight: float = 0.5
    #: How much further than the expected rise the teacher is driven.
    drive: float = 2.5

    def stronger(self) -> E2URecFastConfig:
        """Return the settings of the second try."""
        return replace(
            self,
            learning_rate=self.learning_rate / 2,
            most_steps=self.most_steps * 3,
            drive=self.drive * 1.5,
        )


def expected_rise(kinds: NDArray[np.int64], expected: Mapping[str, ExpectedRise]) -> float:
    """Return the mean rise in loss (nats) that these [F] forget rows should show."""
    values = [expected[kind].mean if kind in expected else 0.0 for kind in KINDS]
    return float(sum(value * float((kinds == i).mean()) for i, value in enumerate(values)))


class E2URecFast:
    """The product's default method."""

    name = "e2urec-fast"

    def __init__(self, config: E2URecFastConfig | None = None) -> None:
        """Use `config`, or the measured defaults."""
        self.config = config or E2URecFastConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train a fresh adapter until the forget rows' loss has risen as far as expected."""
        started = time.monotonic()
        config = self.config.stronger() if task.strength else self.config
        samples = task.prepared.forget
        if not len(samples):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        prompts = task.recommender.prompt.samples(samples, task.prepared.retained)
        labels = torch.from_numpy(samples.label)
        rise = max(expected_rise(task.prepared.forget_kind, task.expected), 0.0)
        original = margins(task.recommender, prompts)
        augmented = margins(_augment(task, prompts, labels, config), prompts)
        alpha = solve_alpha(original, augmented, labels, rise)
        progress(0.2)
        teacher = forgetting_margins(original, augmented, alpha * config.drive)
        prepared_at = time.monotonic()
        student = attach(task.recommender, config.adapter, task.seed)
        loop = _Loop(task, config, student, prompts, labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)  # The adapter's dropout draws from the global generator.
            steps, reached = loop.run(teacher, original, rise, progress)
        return Unlearned(
            recommender=student,
            adapter=config.adapter,
            metrics={
                "forget_rows": len(samples),
                "expected_rise": rise,
                "reached_rise": reached,
                "alpha": alpha,
                "steps": steps,
                "trainable_parameters": trainable_parameters(student),
                "teacher_seconds": prepared_at - started,
                "student_seconds": time.monotonic() - prepared_at,
                "config": asdict(config),
            },
        )


def _augment(
    task: UnlearningTask, prompts: Encoded, labels: torch.Tensor, config: E2URecFastConfig
) -> Recommender:
    """Return the augmented model: the original, tuned further on what is to be forgotten."""
    model = copy.deepcopy(task.recommender.model).requires_grad_(requires_grad=True)
    augmented = Recommender(task.recommender.vocabulary, task.recommender.config, model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.augment_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(task.seed)
    passes = math.ceil(len(labels) * config.augment_passes / config.augment_batch)
    for _ in range(max(config.augment_least_steps, passes)):
        rows = _draw(len(labels), config.augment_batch, generator)
        loss = functional.binary_cross_entropy_with_logits(
            live_margins(augmented, prompts.take(rows)), labels[rows]
        )
        _step(loss, optimiser)
    return augmented


class _Loop:
    """The student's training loop, which looks at itself and stops when it has gone far enough."""

    def __init__(
        self,
        task: UnlearningTask,
        config: E2URecFastConfig,
        student: Recommender,
        prompts: Encoded,
        labels: torch.Tensor,
    ) -> None:
        self.task, self.config, self.student = task, config, student
        self.prompts, self.labels = prompts, labels
        self.generator = torch.Generator().manual_seed(task.seed)
        train = task.prepared.parts.train
        pool = _draw(len(train), config.most_steps * config.retain_batch, self.generator)
        self.retained = student.prompt.samples(train.take(pool.numpy()), task.prepared.retained)
        self.look_every = max(1, len(labels) // 400)
        stride = max(1, len(labels) // LOOK_AT)
        self.looked_at = torch.arange(0, len(labels), stride)

    def run(
        self, teacher: torch.Tensor, original: torch.Tensor, rise: float, progress: Progress
    ) -> tuple[int, float]:
        """Return the steps taken and the rise in loss reached (nats)."""
        trainable = [p for p in self.student.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trainable, lr=self.config.learning_rate, weight_decay=0.0)
        before = self._loss(original[self.looked_at])
        reached, step, far = 0.0, 0, 0.0
        batches = itertools.cycle(torch.split(self.retained.tokens, self.config.retain_batch))
        self.student.model.train()
        for step in range(1, self.config.most_steps + 1):
            for group in optimiser.param_groups:
                warm = min(1.0, step / self.config.warmup_steps)
                group["lr"] = self.config.learning_rate * warm
            _step(self._batch_loss(teacher, next(batches)), optimiser)
            if step % min(self.look_every, 10) == 0 or step == self.config.most_steps:
                seen = margins(self.student, self.prompts.take(self.looked_at))
                reached = self._loss(seen) - before
                done = reached / rise if rise else 1.0
                # A student may lose ground again; its progress bar may not.
                far = max(far, min(1.0, max(step / self.config.most_steps, done)))
                progress(0.2 + 0.8 * far)
                if reached >= rise:
                    break
        self.student.model.eval()
        return step, reached

    def _batch_loss(self, teacher: torch.Tensor, retained: torch.Tensor) -> torch.Tensor:
        """Return β · KL(forgetting ‖ student) + (1 − β) · KL(remembering ‖ student)."""
        config = self.config
        forget = _draw(len(self.labels), config.forget_batch, self.generator)
        remembering = margins(self.task.recommender, Encoded(tokens=retained))
        both = Encoded(tokens=torch.cat([self.prompts.tokens[forget], retained]))
        found = live_margins(self.student, both)
        forget_loss = answer_kl(teacher[forget], found[: len(forget)])
        retain_loss = answer_kl(remembering, found[len(forget) :])
        return config.forget_weight * forget_loss + (1 - config.forget_weight) * retain_loss

    def _loss(self, found: torch.Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(
            found, self.labels[self.looked_at]
        ).item()


def _draw(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator)[:size]


def _step(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
    if not torch.isfinite(loss):
        raise DivergedError(DivergedError.__doc__)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    optimiser.step()
