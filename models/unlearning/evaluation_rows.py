"""Measure the loss increase of forget rows while a method unlearns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from models.data.samples import evenly_spaced
from models.training.trainer import margins
from models.unlearning.finetuning import encode

if TYPE_CHECKING:
    import torch

    from models.unlearning.base import UnlearningTask


class EvaluationRows:
    """All forget rows, or evenly spaced forget rows where there are many, and their loss before."""

    def __init__(self, task: UnlearningTask, most_rows: int) -> None:
        """Encode at most `most_rows` forget rows and measure their loss before unlearning."""
        rows = evenly_spaced(len(task.prepared.forget), most_rows)
        self.prompts, self.labels = encode(task, task.prepared.forget.take(rows))
        self._before = self._loss(margins(task.recommender, self.prompts))

    def loss_increase(self, row_margins: torch.Tensor) -> float:
        """Return the increase of the mean loss (nats) for a model with these [M] margins."""
        return self._loss(row_margins) - self._before

    def _loss(self, row_margins: torch.Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(row_margins, self.labels).item()
