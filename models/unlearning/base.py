"""What every unlearning method takes and gives. One method, one file, one config dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.adapters import AdapterConfig
    from models.preparation import Prepared
    from models.recommender import Recommender
    from models.training import ExpectedRise, Progress, TrainConfig


class NothingToForgetError(ValueError):
    """The batch has no training rows, so there is nothing that weights could unlearn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearningTask:
    """One batch: the release it starts from, what to forget and what to keep.

    `expected` says per kind of row how far the loss rises for a model that never saw the row.
    `recipe` is how the release was trained, for methods that train parts of it again.
    """

    recommender: Recommender
    prepared: Prepared
    expected: Mapping[str, ExpectedRise]
    recipe: TrainConfig
    seed: int = 0
    #: 0 is the first try; 1 goes on longer, in smaller steps, with a harder teacher.
    strength: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlearned:
    """What came out, and what was measured.

    With `adapter`, the recommender carries a trained adapter of that shape, still to be folded;
    without one, its own weights are the result.
    """

    recommender: Recommender
    adapter: AdapterConfig | None
    metrics: dict[str, Any] = field(default_factory=dict)


class UnlearningMethod(Protocol):
    """A way to forget. `name` is what settings and certificates call it."""

    name: str

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Return what forgot the batch; the task's recommender stays as it is.

        Raises NothingToForgetError or DivergedError.
        """
