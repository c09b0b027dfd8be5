"""The interface of unlearning methods: the task, the result, and the base class.

Every method is one file with one config dataclass, and one line in `registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from models.training.trainer import fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.calibration import ExpectedLossIncrease
    from models.audit.memorization import Memorization
    from models.backbones.lora import AdapterConfig
    from models.data.forget_split import ForgetSplit
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender
    from models.recommender.token_rows import TokenRows
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig


#: The root of methods that start from a single model.
PLAIN: Final = "plain"


class NothingToForgetError(ValueError):
    """The batch has no training rows, so there is nothing that weights could unlearn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearningTask:
    """One batch: the release to start from, the rows to forget, and the rows to keep.

    `expected` holds the expected loss increase per kind of row, `memorization` what leaving rows of
    a kind out changes; kinds that could not be measured have no entry. `recipe` is the recipe that
    trained the release, for methods that retrain parts of the release.
    """

    recommender: Recommender
    prepared: ForgetSplit
    expected: Mapping[str, ExpectedLossIncrease]
    memorization: Mapping[str, Memorization]
    recipe: TrainConfig
    seed: int = 0
    #: 0 is the first attempt; 1 has twice the steps.
    strength: int = 0

    def require_forget_rows(self) -> None:
        """Raise NothingToForgetError where the batch has no forget rows."""
        if not len(self.prepared.forget):
            raise NothingToForgetError(NothingToForgetError.__doc__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlearned:
    """The recommender that forgot the batch, and the figures of the run.

    With `adapter`, the recommender carries a trained adapter of that shape, not yet merged, on a
    base that differs from the parent in `rows` alone. Without `adapter`, the recommender's own
    weights are the result.
    """

    recommender: Recommender
    adapter: AdapterConfig | None
    rows: TokenRows | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


class UnlearningMethod(ABC):
    """Base class of the methods. `name` is the method's name in settings and certificates.

    `root` is the kind of release that the method starts from; methods with the same root can start
    from the same release. `calibrated` methods read the task's `expected` and `memorization`. The
    result of an `exact` method equals a training without the batch, so that the audit does not test
    its loss increase. Exact methods build the vocabulary from the task's rows; the caller must have
    chosen the rows' time bounds without the batch.
    """

    name: ClassVar[str]
    root: ClassVar[str] = PLAIN
    calibrated: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def train(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig, progress: Progress
    ) -> Recommender:
        """Train the first release on all training rows; raises DivergedError."""
        return fit(vocabulary, prepared, recipe, progress)

    @abstractmethod
    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        """Return a recommender that forgot the batch; the task's recommender does not change.

        Raises NothingToForgetError or DivergedError.
        """
