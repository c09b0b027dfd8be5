"""NegGrad: gradient ascent on what is forgotten, descent on what is kept.

A baseline of E2URec's paper (arXiv 2403.03536). Weight and learning rate are the published ones,
chosen for T5-base; the number of steps is ours (about 25 s on one thread for any batch).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from torch.nn import functional

from models.unlearning.base import Unlearned, UnlearningMethod
from models.unlearning.finetuning import LoopConfig, tune

if TYPE_CHECKING:
    import torch

    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask
    from models.unlearning.finetuning import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class NegGradConfig:
    """Cross entropy on retained rows minus `forget_weight` times that on forget rows."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    forget_weight: float = 0.2


class NegGrad(UnlearningMethod):
    """Tunes all weights; nothing is left to fold."""

    name = "neggrad"

    def __init__(self, config: NegGradConfig | None = None) -> None:
        """Use `config`, or the published settings."""
        self.config = config or NegGradConfig()

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        config = self.config

        def loss(batch: Batch) -> torch.Tensor:
            kept = functional.binary_cross_entropy_with_logits(batch.retain, batch.retain_labels)
            gone = functional.binary_cross_entropy_with_logits(batch.forget, batch.forget_labels)
            return kept - config.forget_weight * gone

        found, metrics = tune(task, config.loop, loss, progress)
        return Unlearned(
            recommender=found, adapter=None, metrics={**metrics, "config": asdict(config)}
        )
