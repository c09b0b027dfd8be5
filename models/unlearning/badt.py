"""Bad-T: teach the opposite answers on the forget rows and true answers on the retained rows.

A baseline of the E2URec paper (arXiv 2403.03536), named after the method of Chundawat et al. (arXiv
2205.08096). The published script flips the labels of forget rows; a teacher with random answers is
another method. Trial 1 of docs/results/tuning has the published settings: 2,400 steps of 16 rows,
weight .2, and a tenth of the base model's rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.nn import functional

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import LoopConfig, TuningConfig, tune

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTeacherConfig(TuningConfig):
    """Cross entropy on retained rows plus `forget_weight` times that on flipped labels."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2400))
    forget_weight: float = 0.2


@dataclass(frozen=True)
class BadTeacher(UnlearningMethod):
    """Tune all weights toward flipped labels on the forget rows."""

    name = "badt"
    config: BadTeacherConfig = field(default_factory=BadTeacherConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""

        def loss(batch: Batch) -> torch.Tensor:
            retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            flipped = 1 - batch.forget_labels
            forget = functional.binary_cross_entropy_with_logits(batch.forget, flipped)
            return retain + self.config.forget_weight * forget

        return tune(task, self.config, loss, progress)
