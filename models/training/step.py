"""Take one optimizer step with less memory where memory runs out, and decay the learning rate.

Every loop that trains weights uses `take_step`: training, unlearning and the relearning attack.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR

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


def linear_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """Scale the learning rate by min(1, (step + 1) / warmup_steps) · (1 − step / total_steps).

    Call `step()` of the result after every optimizer step. Unlike in transformers' linear schedule,
    the first step already moves, and the decay starts with the warm-up.
    """

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup_steps) * (1 - step / max(total_steps, 1))

    return LambdaLR(optimizer, factor)


def take_step(
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[], torch.Tensor],
    process_group: ProcessGroup = ALONE,
) -> None:
    """Take one optimizer step on the loss that `loss_of` computes from `recommender.live_logits`.

    Where memory runs out, `loss_of` is called again and the same rows are computed in smaller
    parts. The gradients of a process group are summed. Raises DivergedError and OutOfMemoryError.
    """
    while attempt(partial(_backward, optimizer, loss_of)) is None:
        _reduce_memory(recommender)
    process_group.add(
        [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
    )
    if attempt(partial(_update, optimizer)) is None:
        # The optimizer's state does not shrink with the batch, and a partial update is not valid.
        raise OutOfMemoryError(OutOfMemoryError.__doc__)


def memory_report(recommender: Recommender) -> dict[str, Any]:
    """Return figures about memory: rows at a time (None: all), halvings, recomputed layers."""
    return {
        "micro_batch": recommender.memory.training_rows,
        "halvings": recommender.memory.halvings,
        "checkpointed": recomputes_layers(recommender.model),
    }


def _reduce_memory(recommender: Recommender) -> None:
    """Recompute layers in later steps or, if they are recomputed already, halve the rows at a time.

    Raises OutOfMemoryError where one row at a time does not fit.
    """
    if checkpoint_layers(recommender.model):
        log.warning("out of memory: recomputing the layers' activations from now on")
        return
    memory = recommender.memory
    memory.halve()
    log.warning(
        "out of memory: computing a batch of %d rows %d at a time",
        memory.last_batch_rows,
        memory.training_rows,
    )


def _backward(optimizer: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]) -> bool:
    optimizer.zero_grad()
    loss = loss_of()
    if not torch.isfinite(loss):
        raise DivergedError(DivergedError.__doc__)
    loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    return True


def _update(optimizer: torch.optim.Optimizer) -> bool:
    optimizer.step()
    return True
