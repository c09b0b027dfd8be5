"""NegGrad that stops at the loss increase that a shadow model predicts.

Lethe's own baseline: NegGrad (`neggrad`) has no criterion for when to stop. Here the loop ends as
soon as the forget rows' loss increase reaches the expected loss increase of the calibration, and
after the steps of the published NegGrad at the latest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from models.audit.report import expected_mean
from models.training.trainer import margins
from models.unlearning.base import UnlearningMethod
from models.unlearning.evaluation_rows import EvaluationRows
from models.unlearning.finetuning import tune
from models.unlearning.neggrad import NegGradConfig, negated_loss

if TYPE_CHECKING:
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNegGradConfig(NegGradConfig):
    """NegGrad's settings, of which `loop.steps` is the maximum, and those of the stopping."""

    #: Maximum number of forget rows, evenly spaced, on which the loss increase is measured.
    evaluation_rows: int = 1024
    #: Steps between two measurements.
    check_every: int = 5


@dataclass(frozen=True)
class CalibratedNegGrad(UnlearningMethod):
    """Tune all weights with a negated loss until the expected loss increase is reached."""

    name = "neggrad-calibrated"
    calibrated = True
    config: CalibratedNegGradConfig = field(default_factory=CalibratedNegGradConfig)

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Tune a copy; raises NothingToForgetError or DivergedError."""
        task.require_forget_rows()
        config = self.config
        expected = expected_mean(task.prepared, task.expected)
        evaluation = EvaluationRows(task, config.evaluation_rows)
        reached = 0.0

        def is_done(student: Recommender, step: int) -> bool:
            nonlocal reached
            if step % config.check_every:
                return False
            student.model.eval()
            reached = evaluation.loss_increase(margins(student, evaluation.prompts))
            student.model.train()
            return reached >= expected

        loss = partial(negated_loss, config.forget_weight)
        unlearned = tune(task, config, loss, progress, is_done=is_done)
        figures = {"expected_rise": expected, "reached_rise": reached}
        return replace(unlearned, metrics={**unlearned.metrics, **figures})
