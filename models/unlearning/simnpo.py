"""SimNPO: NPO without a reference model (arXiv 2410.07163), with the original on retained rows.

β is of the published order; learning rate and number of steps are those of the other baselines.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.finetuning import LoopConfig, tune
from models.unlearning.losses import answer_kl, simple_negative_preference

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SimNpoConfig:
    """SimNPO on forget rows plus `retain_weight` times KL(original ‖ student) on retained rows."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    beta: float = 2.5
    retain_weight: float = 1.0


class SimNpo(UnlearningMethod):
    """Tunes all weights; nothing is left to fold."""

    name = "simnpo"

    def __init__(self, config: SimNpoConfig | None = None) -> None:
        """Use `config`, or the published settings."""
        self.config = config or SimNpoConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config

        def loss(batch: Batch) -> torch.Tensor:
            gone = simple_negative_preference(batch.forget, batch.forget_labels, config.beta)
            return gone + config.retain_weight * answer_kl(batch.retain_original, batch.retain)

        found, metrics = tune(task, config.loop, loss, progress, with_original=True)
        return Unlearned(
            recommender=found, adapter=None, metrics={**metrics, "config": asdict(config)}
        )
