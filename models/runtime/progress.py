"""The progress callback of training, unlearning and benchmark runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receive the finished share of a task, in 0…1. May raise to interrupt the task."""

    def __call__(self, fraction: float) -> None: ...
