"""Exact unlearning: train from scratch on what is retained. The reference of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report
from models.training.trainer import fit
from models.unlearning.base import NothingToForgetError, Unlearned, UnlearningMethod

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask


class Retrain(UnlearningMethod):
    """Trains by the recipe that the release was trained by."""

    name = "retrain"
    exact = True

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train again without the batch; raises NothingToForgetError or DivergedError."""
        if not len(task.prepared.forget):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        recommender = fit(task.recommender.vocabulary, task.prepared, task.recipe, progress)
        progress(1.0)
        return Unlearned(
            recommender=recommender,
            adapter=None,
            metrics={
                "forget_rows": len(task.prepared.forget),
                "trainable_parameters": trainable_parameters(recommender),
                **memory_report(recommender),
            },
        )
