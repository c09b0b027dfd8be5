"""NegGrad: gradient ascent on the forget rows, gradient descent on the retained rows.

A baseline of the E2URec paper (arXiv 2403.03536). Weight and learning rate are the published
values, chosen for T5-base; the number of steps is Lethe's (about 25 s on one thread for any batch).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.nn import functional

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import TuningConfig, tune

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class NegGradConfig(TuningConfig):
    """Cross entropy on retained rows minus `forget_weight` times that on forget rows."""

    forget_weight: float = 0.2


@dataclass(frozen=True)
class NegGrad(UnlearningMethod):
    """Tune all weights with a negated loss on the forget rows."""

    name = "neggrad"
    config: NegGradConfig = field(default_factory=NegGradConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""

        def loss(batch: Batch) -> torch.Tensor:
            retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            forget = functional.binary_cross_entropy_with_logits(batch.forget, batch.forget_labels)
            return retain - self.config.forget_weight * forget

        return tune(task, self.config, loss, progress)
