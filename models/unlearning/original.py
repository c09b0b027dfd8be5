"""No unlearning at all: the release as it is. Every audit must tell the other methods from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.unlearning.base import NothingToForgetError, Unlearned, UnlearningMethod

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask


class Original(UnlearningMethod):
    """Returns the parent. In a job the audit must refuse it."""

    name = "original"

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Change nothing; raises NothingToForgetError."""
        if not len(task.prepared.forget):
            raise NothingToForgetError(NothingToForgetError.__doc__)
        progress(1.0)
        return Unlearned(
            recommender=task.recommender,
            adapter=None,
            metrics={"forget_rows": len(task.prepared.forget), "trainable_parameters": 0},
        )
