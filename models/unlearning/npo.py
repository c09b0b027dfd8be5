"""NPO: negative preference optimization on the forget rows, cross entropy on the retained rows.

The variant NPO+RT of arXiv 2404.05868. Trial 1 of docs/results/tuning has the published settings of
TOFU, scaled: β .1, equal weights, ten passes over the forget rows in batches of 32, and the base
model's learning rate (1e-5 for both there). Weight decay and warm-up are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.nn import functional

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import LoopConfig, TuningConfig, tune
from models.unlearning.losses import negative_preference

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch

#: The published loop, as shares of the forget rows and of the base model's rate.
PUBLISHED_LOOP = LoopConfig(rate_share=1.0, batch_size=32, epochs=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpoConfig(TuningConfig):
    """NPO on forget rows plus `retain_weight` times the cross entropy on retained rows."""

    loop: LoopConfig = field(default_factory=lambda: PUBLISHED_LOOP)
    beta: float = 0.1
    retain_weight: float = 1.0


@dataclass(frozen=True)
class Npo(UnlearningMethod):
    """Tune all weights with the NPO loss."""

    name = "npo"
    config: NpoConfig = field(default_factory=NpoConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config

        def loss(batch: Batch) -> torch.Tensor:
            forget = negative_preference(
                batch.forget, batch.forget_original, batch.forget_labels, config.beta
            )
            retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            return forget + config.retain_weight * retain

        return tune(task, config, loss, progress, with_original=True)
