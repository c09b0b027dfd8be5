"""Bad-T: random answers are taught for what is forgotten, true ones for what is kept.

A baseline of E2URec's paper (arXiv 2403.03536), after Chundawat et al. (arXiv 2205.08096). Weight
and learning rate are the published ones, chosen for T5-base; the number of steps is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.finetuning import LoopConfig, tune

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTeacherConfig:
    """Cross entropy on retained rows plus `forget_weight` times that on random labels."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    forget_weight: float = 0.2


class BadTeacher(UnlearningMethod):
    """Tunes all weights; nothing is left to fold."""

    name = "badt"

    def __init__(self, config: BadTeacherConfig | None = None) -> None:
        """Use `config`, or the published settings."""
        self.config = config or BadTeacherConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config
        generator = torch.Generator().manual_seed(task.seed)
        # Drawn once per row: a teacher that answers anew at every step would teach one half.
        wrong = torch.randint(2, (len(task.prepared.forget),), generator=generator).float()

        def loss(batch: Batch) -> torch.Tensor:
            kept = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            gone = functional.binary_cross_entropy_with_logits(
                batch.forget, wrong[batch.forget_rows]
            )
            return kept + config.forget_weight * gone

        found, metrics = tune(task, config.loop, loss, progress)
        return Unlearned(
            recommender=found, adapter=None, metrics={**metrics, "config": asdict(config)}
        )
