"""SimNPO: NPO without a reference model on the forget rows, cross entropy on the retained rows.

Source: arXiv 2410.07163. Trial 1 of docs/results/tuning has the published settings of the largest
forget set of TOFU (10 %), scaled: β 4.5, γ 0, forget weight .125, ten passes over the forget rows
in batches of 32, and the base model's learning rate. Weight decay and warm-up are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.nn import functional

from models.unlearning.base import UnlearningMethod
from models.unlearning.finetuning import LoopConfig, TuningConfig, tune
from models.unlearning.losses import simple_negative_preference
from models.unlearning.npo import PUBLISHED_LOOP

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SimNpoConfig(TuningConfig):
    """Cross entropy on retained rows plus `forget_weight` times SimNPO on forget rows."""

    loop: LoopConfig = field(default_factory=lambda: PUBLISHED_LOOP)
    beta: float = 4.5
    gamma: float = 0.0
    forget_weight: float = 0.125


@dataclass(frozen=True)
class SimNpo(UnlearningMethod):
    """Tune all weights with the SimNPO loss."""

    name = "simnpo"
    config: SimNpoConfig = field(default_factory=SimNpoConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config

        def loss(batch: Batch) -> torch.Tensor:
            forget = simple_negative_preference(
                batch.forget, batch.forget_labels, config.beta, config.gamma
            )
            retain = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            return retain + config.forget_weight * forget

        return tune(task, config, loss, progress)
