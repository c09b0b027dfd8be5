"""Bad-T: teach random answers on the forget rows and true answers on the retained rows.

A baseline of the E2URec paper (arXiv 2403.03536), after Chundawat et al. (arXiv 2205.08096). Weight
and learning rate are the published values, chosen for T5-base; the number of steps is Lethe's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import TuningConfig, tune

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTeacherConfig(TuningConfig):
    """Cross entropy on retained rows plus `forget_weight` times that on random labels."""

    forget_weight: float = 0.2


@dataclass(frozen=True)
class BadTeacher(UnlearningMethod):
    """Tune all weights toward random labels on the forget rows."""

    name = "badt"
    config: BadTeacherConfig = field(default_factory=BadTeacherConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        generator = torch.Generator().manual_seed(task.seed)
        # One label per row for all steps: labels drawn at every step would teach P(Yes) = 1/2.
        labels = torch.randint(2, (len(task.prepared.forget),), generator=generator).float()

        def loss(batch: Batch) -> torch.Tensor:
            retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            forget = functional.binary_cross_entropy_with_logits(
                batch.forget, labels[batch.forget_rows]
            )
            return retain + self.config.forget_weight * forget

        return tune(task, self.config, loss, progress)
