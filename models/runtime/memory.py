"""What fits into memory: how many rows train at once, and what follows when it was too many.

A batch stays one batch to the optimiser, however few of its rows are computed at a time. Knows
models and errors; nothing of losses or optimisers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


log = logging.getLogger(__name__)

Found = TypeVar("Found")
#: Where Linux tells a container its limits.
_CONTAINER: Final = Path("/sys/fs/cgroup")


class OutOfMemoryError(RuntimeError):
    """Not one row fits into memory. Give the worker more of it, or choose a smaller backbone."""


@dataclass(slots=True, kw_only=True)
class Memory:
    """What was learned of the memory while a recommender trained and answered.

    `rows` are so many as may train at once (None: as many as are asked for), `asked` so many as the
    last pass had, `halvings` how often that was too many; `read` so many as may be read at once
    without gradients. `tokens` are so many as the CPU's free memory has room for (None: not yet
    looked at; elsewhere the device itself says when it is full).
    """

    rows: int | None = None
    asked: int = 0
    halvings: int = 0
    read: int | None = None
    tokens: int | None = None

    def halve(self) -> None:
        """Let half as many rows train at once; raises OutOfMemoryError where it is one already."""
        now = self.asked if self.rows is None else min(self.rows, self.asked)
        self.rows = halved(now)
        self.halvings += 1

    def parts(self, rows: int, longest: int) -> int:
        """Return how many of `rows` prompts of up to `longest` tokens may train at once."""
        fits = rows if self.tokens is None else max(1, self.tokens // max(longest, 1))
        if fits < rows:
            self.rows = fits if self.rows is None else min(self.rows, fits)
        return rows if self.rows is None else min(rows, self.rows)


def tokens_that_fit(model: nn.Module, answer: Callable[[], object], tokens: int) -> int:
    """Return how many tokens may train at once on the CPU, from a pass over `tokens` of them.

    A system without memory does not refuse it there: it ends the process. So what a pass keeps for
    its backward pass is measured, and a third of the free memory may be filled with it: gradients
    and what is computed again need about as much (3.1 GB where 2.2 GB were measured, SmolLM2-135M).
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        held = answer()
    del held
    return max(1, free_memory() // 3 * tokens // max(sum(kept.values()), 1))


def free_memory() -> int:
    """Return how many bytes this process may still take: the machine's, or its container's."""
    free: int = psutil.virtual_memory().available
    try:
        most, used = (
            int((_CONTAINER / name).read_text()) for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # No container, or one without a limit.
        return free
    return max(0, min(free, most - used))


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


def checkpoint_layers(model: nn.Module) -> bool:
    """Let a model in training compute its layers' activations again instead of keeping them.

    False where it does so already, or cannot.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        return False
    if recomputes_layers(model):
        return False
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator] # transformers is untyped
    return True


def recomputes_layers(model: nn.Module) -> bool:
    """Return whether the model computes activations again in its backward pass."""
    return bool(getattr(model, "is_activation_checkpointing", False))


def _ran_out(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "bad_alloc" in str(error) or should_reduce_batch_size(error)
