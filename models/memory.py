"""What fits into memory: how many rows train at once, and what follows when it was too many.

A batch stays one batch to the optimiser, however few of its rows are computed at a time. Knows
models and errors; nothing of losses or optimisers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from models.recommender import Recommender

log = logging.getLogger(__name__)

Found = TypeVar("Found")


class OutOfMemoryError(RuntimeError):
    """Not one row fits into memory. Give the worker more of it, or choose a smaller backbone."""


@dataclass(slots=True, kw_only=True)
class Memory:
    """What was learned of the memory while a recommender trained and answered.

    `rows` are so many as may train at once (None: as many as are asked for), `asked` so many as the
    last pass had, `halvings` how often that was too many; `read` so many as may be read at once
    without gradients.
    """

    rows: int | None = None
    asked: int = 0
    halvings: int = 0
    read: int | None = None

    def halve(self) -> None:
        """Let half as many rows train at once; raises OutOfMemoryError where it is one already."""
        now = self.asked if self.rows is None else min(self.rows, self.asked)
        self.rows = halved(now)
        self.halvings += 1


def halved(rows: int) -> int:
    """Return half of the rows that were too many; raises OutOfMemoryError where they are one."""
    if rows <= 1:
        raise OutOfMemoryError(OutOfMemoryError.__doc__)
    return rows // 2


def attempt(action: Callable[[], Found]) -> Found | None:
    """Return what `action` gives, or None where memory ran out; then all that it held is free."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not _ran_out(error):
            raise
    # Not in the handler: there the error's traceback still holds every tensor of the attempt.
    clear_device_cache(garbage_collection=True)
    return None


def make_room(recommender: Recommender) -> None:
    """Train with less memory from now on: recompute layers, or else halve the rows at once.

    Raises OutOfMemoryError where nothing is left to halve.
    """
    if checkpoint_layers(recommender.model):
        log.warning("out of memory: the activations of layers are computed again from now on")
        return
    memory = recommender.memory
    memory.halve()
    log.warning("out of memory: a batch of %d goes on %d at a time", memory.asked, memory.rows)


def checkpoint_layers(model: nn.Module) -> bool:
    """Let a model in training compute its layers' activations again instead of keeping them.

    False where it does so already, or cannot.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        return False
    if _recomputes(model):
        return False
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator] # transformers is untyped
    return True


def memory_report(recommender: Recommender) -> dict[str, Any]:
    """Return what to report of a training: rows at a time (None: all), halvings, recomputing."""
    return {
        "micro_batch": recommender.memory.rows,
        "halvings": recommender.memory.halvings,
        "checkpointed": _recomputes(recommender.model),
    }


def _recomputes(model: nn.Module) -> bool:
    return bool(getattr(model, "is_activation_checkpointing", False))


def _ran_out(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "bad_alloc" in str(error) or should_reduce_batch_size(error)
