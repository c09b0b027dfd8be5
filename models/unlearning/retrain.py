"""Retrain: train from scratch on the retained rows. Other methods are compared with this result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.prompts.vocabulary import Vocabulary
from models.recommender.trainable import trainable_parameters
from models.training.step import memory_report
from models.training.trainer import fit
from models.unlearning.base import Unlearned, UnlearningMethod

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask


class Retrain(UnlearningMethod):
    """Train by the recipe of the release."""

    name = "retrain"
    exact = True

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Train without the batch; raises NothingToForgetError or DivergedError."""
        task.require_forget_rows()
        vocabulary = Vocabulary.from_catalog(task.prepared.catalog())
        recommender = fit(vocabulary, task.prepared, task.recipe, progress)
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
