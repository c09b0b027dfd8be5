"""SimNPO: NPO without a reference model (arXiv 2410.07163) on the forget rows.

The KL divergence from the original keeps the retained rows. β is of the published order; learning
rate and number of steps are those of the other baselines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import TuningConfig, tune
from models.unlearning.losses import answer_kl, simple_negative_preference

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SimNpoConfig(TuningConfig):
    """SimNPO on forget rows plus `retain_weight` times KL(original ‖ student) on retained rows."""

    beta: float = 2.5
    retain_weight: float = 1.0


@dataclass(frozen=True)
class SimNpo(UnlearningMethod):
    """Tune all weights with the SimNPO loss."""

    name = "simnpo"
    config: SimNpoConfig = field(default_factory=SimNpoConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config

        def loss(batch: Batch) -> torch.Tensor:
            forget = simple_negative_preference(batch.forget, batch.forget_labels, config.beta)
            return forget + config.retain_weight * answer_kl(batch.retain_original, batch.retain)

        return tune(task, config, loss, progress, with_original=True)
