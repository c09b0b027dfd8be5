"""Fine-tuning on the retained rows alone, without any use of the forget rows in the loss.

The simplest baseline of the unlearning literature: the forget rows fade because training goes on
without them. E2URec (arXiv 2403.03536) has no such baseline; trial 1 of docs/results/tuning is its
NegGrad with weight 0: 3,000 steps of 16 rows at a tenth of the base model's rate.
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
class FineTuneConfig(TuningConfig):
    """Cross entropy on retained rows."""


@dataclass(frozen=True)
class FineTune(UnlearningMethod):
    """Tune all weights on the retained rows."""

    name = "finetune"
    config: FineTuneConfig = field(default_factory=FineTuneConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        return tune(task, self.config, _retained_loss, progress, with_forget=False)


def _retained_loss(batch: Batch) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
