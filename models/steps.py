"""One step of training, for every loop: it repeats itself with less memory where that runs out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from models.memory import OutOfMemoryError, attempt, make_room
from models.team import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recommender import Recommender
    from models.team import Team


class DivergedError(RuntimeError):
    """The loss became NaN or infinite. Lower the learning rate and train again."""


def take_step(
    recommender: Recommender,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[], torch.Tensor],
    team: Team = ALONE,
) -> None:
    """Take one step down the loss that `loss_of` computes, of `recommender.live_logits`.

    Where memory runs out, `loss_of` is called again, and the same rows go in smaller parts. The
    gradients of a team's shares are added up. Raises DivergedError and OutOfMemoryError.
    """
    while attempt(partial(_descend, optimiser, loss_of)) is None:
        make_room(recommender)
    team.add(
        [
            parameter.grad
            for group in optimiser.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
    )
    if attempt(partial(_update, optimiser)) is None:
        # What an optimiser keeps does not depend on the batch, and half an update is none.
        raise OutOfMemoryError(OutOfMemoryError.__doc__)


def _descend(optimiser: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]) -> bool:
    optimiser.zero_grad()
    loss = loss_of()
    if not torch.isfinite(loss):
        raise DivergedError(DivergedError.__doc__)
    loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    return True


def _update(optimiser: torch.optim.Optimizer) -> bool:
    optimiser.step()
    return True
