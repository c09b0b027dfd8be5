"""Limit the rows that a model computes at once to those that fit into memory.

Callers run a pass through `attempt`. When memory runs out, the pass is repeated with fewer rows or
with activation checkpointing. The optimizer still sees the whole batch.
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

Result = TypeVar("Result")
#: The folder in which Linux publishes a container's memory limit and usage (cgroup v2).
_CGROUP: Final = Path("/sys/fs/cgroup")


class OutOfMemoryError(RuntimeError):
    """Not even one row fits into memory. Give the worker more memory or use a smaller backbone."""


@dataclass(slots=True, kw_only=True)
class Memory:
    """The limits that one recommender has learned about the memory of its device.

    `training_rows` is the largest number of rows of one pass with gradients; None means no limit.
    `last_batch_rows` is the size of the last training batch, and `halvings` counts how often
    `training_rows` was halved. `inference_rows` is the limit without gradients. `training_tokens`
    is the number of tokens for which the CPU's free memory suffices in one pass with gradients;
    None before the first measurement, and always None on devices that report a full memory.
    """

    training_rows: int | None = None
    last_batch_rows: int = 0
    halvings: int = 0
    inference_rows: int | None = None
    training_tokens: int | None = None

    def halve(self) -> None:
        """Halve the rows of one training pass.

        Raises OutOfMemoryError if a pass already has only one row.
        """
        limit = self.training_rows
        rows = self.last_batch_rows if limit is None else min(limit, self.last_batch_rows)
        self.training_rows = halved(rows)
        self.halvings += 1

    def rows_per_pass(self, rows: int, longest: int) -> int:
        """Return how many of `rows` prompts of up to `longest` tokens fit into a training pass.

        A CPU limit below `rows` is stored in `training_rows`. The limit is a power of two, because
        parts of another size round differently: slightly less free memory must not change the
        weights.
        """
        tokens, limit = self.training_tokens, self.training_rows
        fitting = rows if tokens is None else max(1, tokens // max(longest, 1))
        if fitting < rows:
            fitting = 2 ** (fitting.bit_length() - 1)
            if limit is None or fitting < limit:
                limit = self.training_rows = fitting
                log.warning(
                    "low on memory: computing a batch of %d rows %d at a time", rows, fitting
                )
        return rows if limit is None else min(rows, limit)


def tokens_that_fit(model: nn.Module, answer: Callable[[], object], tokens: int) -> int:
    """Return how many tokens one training pass on the CPU may have.

    `answer` runs the model on `tokens` tokens. The function measures the bytes that the pass stores
    for its backward pass, and allows a third of the free memory for them: gradients and recomputed
    activations need about as much again (3.1 GB used for 2.2 GB measured, SmolLM2-135M). The limit
    is needed because Linux does not refuse the allocation; it kills the process.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved_bytes: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
    ):
        # The output keeps the graph alive: the address of a freed storage could be used again.
        output = answer()
    del output
    return max(1, free_memory() // 3 * tokens // max(sum(saved_bytes.values()), 1))


def free_memory() -> int:
    """Return the free bytes of the machine, or those of the container's limit if it has fewer."""
    free: int = psutil.virtual_memory().available
    try:
        limit, used = (
            int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # There is no container, or its limit is "max".
        return free
    return max(0, min(free, limit - used))


def halved(rows: int) -> int:
    """Return half of `rows`, rounded down; raises OutOfMemoryError if there is only one row."""
    if rows <= 1:
        raise OutOfMemoryError(OutOfMemoryError.__doc__)
    return rows // 2


def attempt(action: Callable[[], Result]) -> Result | None:
    """Return the result of `action`, or None if memory ran out, after freeing its tensors."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Outside the handler, because inside the traceback still references the action's tensors.
    clear_device_cache(garbage_collection=True)
    return None


def checkpoint_layers(model: nn.Module) -> bool:
    """Make a model recompute its layers' activations in the backward pass instead of storing them.

    Returns False if the model does so already or does not support it.
    """
    if not getattr(model, "supports_gradient_checkpointing", False) or recomputes_layers(model):
        return False
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator] # transformers is untyped
    return True


def recomputes_layers(model: nn.Module) -> bool:
    """Return whether the model recomputes activations in its backward pass."""
    return bool(getattr(model, "is_activation_checkpointing", False))


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "bad_alloc" in str(error) or should_reduce_batch_size(error)
