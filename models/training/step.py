"""One step of training, for every loop: it repeats itself with less memory where that runs out."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from models.runtime.memory import (
    OutOfMemoryError,
    attempt,
    checkpoint_layers,
    recomputes_layers,
)
from models.runtime.process_group import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recommender.base import Recommender
    from models.runtime.process_group import ProcessGroup


log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss became NaN or infinite. Lower the learning rate and train again."""


def take_step(
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[], torch.Tensor],
    process_group: ProcessGroup = ALONE,
) -> None:
    """Take one step down the loss that `loss_of` computes, of `recommender.live_logits`.

    Where memory runs out, `loss_of` is called again, and the same rows go in smaller parts. The
    gradients of a team's shares are added up. Raises DivergedError and OutOfMemoryError.
    """
    while attempt(partial(_descend, optimizer, loss_of)) is None:
        _make_room(recommender)
    process_group.add(
        [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
    )
    if attempt(partial(_update, optimizer)) is None:
        # What an optimiser keeps does not depend on the batch, and half an update is none.
        raise OutOfMemoryError(OutOfMemoryError.__doc__)


def memory_report(recommender: Recommender) -> dict[str, Any]:
    """Return what to report of a training: rows at a time (None: all), halvings, recomputing."""
    return {
        "micro_batch": recommender.memory.training_rows,
        "halvings": recommender.memory.halvings,
        "checkpointed": recomputes_layers(recommender.model),
    }


def _make_room(recommender: Recommender) -> None:
    """Train with less memory from now on: recompute layers, or else halve the rows at once.

    Raises OutOfMemoryError where nothing is left to halve.
    """
    if checkpoint_layers(recommender.model):
        log.warning("out of memory: the activations of layers are computed again from now on")
        return
    memory = recommender.memory
    memory.halve()
    log.warning(
        "out of memory: a batch of %d goes on %d at a time",
        memory.last_batch_rows,
        memory.training_rows,
    )


def _descend(optimizer: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]) -> bool:
    optimizer.zero_grad()
    loss = loss_of()
    if not torch.isfinite(loss):
        raise DivergedError(DivergedError.__doc__)
    loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    return True


def _update(optimizer: torch.optim.Optimizer) -> bool:
    optimizer.step()
    return True
