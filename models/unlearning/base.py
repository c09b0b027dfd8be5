"""What every unlearning method takes and gives. One method, one file, one config dataclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from models.training.trainer import fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.calibration import ExpectedLossIncrease
    from models.backbones.lora import AdapterConfig
    from models.data.forget_split import ForgetSplit
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.recommender.token_rows import TokenRows
    from models.training.trainer import Progress, TrainConfig


#: The root of methods that start from one model.
PLAIN: Final = "plain"


class NothingToForgetError(ValueError):
    """The batch has no training rows, so there is nothing that weights could unlearn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearningTask:
    """One batch: the release it starts from, what to forget and what to keep.

    `expected` says per kind of row how far the loss rises for a model that never saw the row.
    `recipe` is how the release was trained, for methods that train parts of it again.
    """

    recommender: Recommender
    prepared: ForgetSplit
    expected: Mapping[str, ExpectedLossIncrease]
    recipe: TrainConfig
    seed: int = 0
    #: 0 is the first try; 1 goes on longer, in smaller steps, with a harder teacher.
    strength: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlearned:
    """What came out, and what was measured.

    With `adapter`, the recommender carries a trained adapter of that shape, still to be folded, on
    a base that differs from its parent in `rows` alone; without one, its own weights are the
    result.
    """

    recommender: Recommender
    adapter: AdapterConfig | None
    rows: TokenRows | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


class UnlearningMethod(ABC):
    """A way to forget. `name` is what settings and certificates call it.

    `root` names the kind of release that it starts from: methods with the same root can start from
    the same one. `calibrated` methods need `expected` in their task. `exact` methods leave nothing
    that ever depended on the batch: what comes out is what training without it gives, so that no
    audit can ask it to move by a certain amount.
    """

    name: ClassVar[str]
    root: ClassVar[str] = PLAIN
    calibrated: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def train(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig, progress: Progress
    ) -> Recommender:
        """Train the first release, which knows everybody; raises DivergedError."""
        return fit(vocabulary, prepared, recipe, progress)

    @abstractmethod
    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Return what forgot the batch; the task's recommender stays as it is.

        Raises NothingToForgetError or DivergedError.
        """
