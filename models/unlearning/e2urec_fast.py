"""E2URec with a measured forgetting teacher: the product's default method.

As in E2URec (arXiv 2403.03536), a LoRA student learns from a forgetting and a remembering teacher,
whose answers are computed once. The steps, each measured in docs/methods.md:

1. Closed form: the rows of items return toward their initial values by the share of their samples
   that leave (`models.recommender.returned_rows`).
2. Teachers: the remembering teacher is the model after step 1. The forgetting teacher also takes
   back what the release memorized of each person: the residuals of the person's samples with a
   similar history, times a coefficient that the release's shadow model showed
   (`models.audit.memorization`). No augmented model is trained.
3. Distillation: a small adapter learns an exaggerated change, in rounds of few steps. A change of
   several times the right size stands out from the noise of the steps.
4. Settling: the adapter is scaled so that answers move as far as the teacher's. As long as no scale
   does that and leaves answers nearer to the teacher's than before step 3, another round follows.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from models.audit.report import expected_mean
from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach
from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report
from models.training.trainer import margins, seeded_dropout
from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.fast_student import Rounds, Settling, Teachers

if TYPE_CHECKING:
    import torch

    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.fast_student import Reach

#: Names of settings in certificates, job metrics and results.json.
_STORED_NAMES: Final = {"evaluation_rows": "look_at", "overshoot_factor": "drive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class E2URecFastConfig:
    """Settings of the student; none of them says how far answers move."""

    #: Maximum number of forget rows, evenly spaced, on which the student is measured.
    evaluation_rows: int = 1024
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(
            rank=4, alpha=8, dropout=0.0, targets=("value", "output", "embedding")
        )
    )
    #: Learning rate for this number of forget rows or more; fewer rows have a lower one.
    learning_rate: float = 2e-3
    rate_rows: int = 4096
    warmup_steps: int = 3
    #: Maximum number of rounds. No round follows once the student can have the teacher's size.
    most_rounds: int = 4
    #: Maximum number of steps of a round, and steps per cube root of the number of forget rows.
    steps: int = 64
    steps_per_root: float = 4.0
    forget_batch: int = 16
    retain_batch: int = 32
    #: The size of the taught change, as a multiple of the change that remains after settling.
    overshoot_factor: float = 3.0
    #: Maximum of the adapter's final scale; a larger adapter also changes what it was not taught.
    most_scale: float = 1.5

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values under the names that earlier results have."""
        values = asdict(self)
        return {_STORED_NAMES.get(name, name): value for name, value in values.items()}

    def stronger(self) -> E2URecFastConfig:
        """Return the settings of the second attempt: twice the steps."""
        return replace(self, steps=self.steps * 2, steps_per_root=self.steps_per_root * 2)

    def steps_for(self, forget_rows: int) -> int:
        """Return the number of steps for a number of forget rows, at least 1.

        A person with few rows needs more passes over them than a batch with many (docs/methods.md).
        """
        return max(1, min(self.steps, math.ceil(self.steps_per_root * math.cbrt(forget_rows))))

    def rate_for(self, forget_rows: int) -> float:
        """Return the learning rate, because few rows are easily taught too much."""
        return self.learning_rate * min(1.0, math.cbrt(forget_rows / self.rate_rows))


#: Settings for language models, whose steps on long prompts take seconds, not milliseconds.
LANGUAGE: Final = E2URecFastConfig(
    evaluation_rows=256,
    most_rounds=1,
    learning_rate=3e-4,
    rate_rows=512,
    warmup_steps=2,
    steps=12,
    steps_per_root=1.5,
    forget_batch=8,
    retain_batch=8,
)


@dataclass(frozen=True)
class E2URecFast(UnlearningMethod):
    """Run the four steps; without `config`, with the settings for the kind of release."""

    name = "e2urec-fast"
    calibrated = True
    config: E2URecFastConfig | None = None

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Run the four steps; raises NothingToForgetError and DivergedError."""
        started = time.monotonic()
        config = self._config(task)
        teachers = Teachers(task)
        progress(0.2)
        stepped_at = time.monotonic()
        student = attach(teachers.base, config.adapter, task.seed)
        reach, rounds = _teach(student, task, config, teachers, progress)
        progress(1.0)
        return Unlearned(
            recommender=student,
            adapter=None if task.recommender.config.adapter else config.adapter,
            rows=teachers.rows,
            metrics={
                "forget_rows": len(task.prepared.forget),
                "token_rows": len(teachers.rows.tokens),
                "expected_rise": max(expected_mean(task.prepared, task.expected), 0.0),
                **reach.metrics(),
                "rounds": rounds,
                "trainable_parameters": trainable_parameters(student),
                **memory_report(student),
                "teacher_seconds": stepped_at - started,
                "student_seconds": time.monotonic() - stepped_at,
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
        """Return the teachers' [F] margins on the forget rows, by name."""
        config, teachers = self._config(task), Teachers(task)
        remembering = margins(teachers.base, teachers.prompts)
        progress(1.0)
        return {"returned rows": remembering} | {
            f"returned rows, forgetting × {factor:g}": remembering + factor * teachers.change
            for factor in sorted({1.0, config.overshoot_factor})
        }


def _teach(
    student: Recommender,
    task: UnlearningTask,
    config: E2URecFastConfig,
    teachers: Teachers,
    progress: Progress,
) -> tuple[Reach, int]:
    """Teach rounds until the student can be scaled to the teacher's size, and scale it.

    Returns its reach and the number of rounds.
    """
    settling = Settling(teachers, config)
    if not teachers.teaches:
        return settling.settle(student, settling.measure(student)), 0
    rounds, share = Rounds(task, config, teachers), 0.8 / config.most_rounds
    with seeded_dropout(task.seed):
        for number in range(config.most_rounds):
            rounds.teach(number, student, lambda done, n=number: progress(0.2 + share * (n + done)))
            reach = settling.measure(student)
            if reach.enough:
                break
    return settling.settle(student, reach), number + 1
