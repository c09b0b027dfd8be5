"""NegGrad: gradient ascent on the forget rows, gradient descent on the retained rows.

A baseline of the E2URec paper (arXiv 2403.03536). Trial 1 of docs/results/tuning has the published
settings: 3,000 steps of 16 rows, weight .2, and a tenth of the base model's rate (5e-5 of 5e-4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
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
        return tune(task, self.config, partial(negated_loss, self.config.forget_weight), progress)


def negated_loss(forget_weight: float, batch: Batch) -> torch.Tensor:
    """Return the loss of retained rows minus `forget_weight` times that of forget rows (nats)."""
    retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
    forget = functional.binary_cross_entropy_with_logits(batch.forget, batch.forget_labels)
    return retain - forget_weight * forget
