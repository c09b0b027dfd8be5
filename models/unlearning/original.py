"""Original: return the release unchanged.

The baseline without unlearning, from which every audit must tell the other methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.unlearning.base import Unlearned, UnlearningMethod

if TYPE_CHECKING:
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask


class Original(UnlearningMethod):
    """Return the parent; a job's audit must refuse the result."""

    name = "original"

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Return the task's recommender; raises NothingToForgetError."""
        task.require_forget_rows()
        progress(1.0)
        return Unlearned(
            recommender=task.recommender,
            adapter=None,
            metrics={"forget_rows": len(task.prepared.forget), "trainable_parameters": 0},
        )
