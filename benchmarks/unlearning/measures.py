"""What is measured of one released model: answers, attacks, the product's audit, memory.

Knows one release and the rows; comparing several runs is `results`' part.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.relearning import RelearnConfig, relearn_steps
from models.audit.report import audit, audit_exact
from models.data.metrics import log_losses, utility
from models.training.step import DivergedError
from models.training.trainer import margins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case
    from models.audit.calibration import ExpectedLossIncrease
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.recommender.base import Recommender
    from models.unlearning.base import UnlearningMethod

    Floats = NDArray[np.float64]

RETRAIN: Final = "retrain"
ORIGINAL: Final = "original"
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")


class Memory:
    """The highest resident memory of this process from here on, libraries and data included.

    The kernel's high-water mark is set back first. Where that cannot be done (outside Linux) the
    peak is that of the process so far, which has only loaded what the run starts from.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError):
            _CLEAR_REFS.write_text("5", encoding="ascii")  # 5: forget the peak, see proc(5).
        self.before = self.peak()

    @staticmethod
    def peak() -> int:
        """Return the peak in bytes."""
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024


def answers(recommender: Recommender, samples: Samples, data: Interactions) -> Floats:
    """Return the [M] margins on the samples; raises DivergedError where one is no number."""
    found = margins(recommender, recommender.prompt.samples(samples, data)).numpy()
    if not np.isfinite(found).all():
        raise DivergedError(DivergedError.__doc__)
    return found.astype(np.float64)


def qualities(case: Case, forget_margins: Floats, test_margins: Floats) -> dict[str, float]:
    """Return utility on the test rows and on the forget rows."""
    on_test = utility(case.batch.parts.test.label, test_margins)
    on_forget = utility(case.batch.forget.label, forget_margins)
    return {
        "test_auc": on_test["auc"],
        "test_acc": on_test["accuracy"],
        "test_logloss": on_test["log_loss"],
        "forget_auc": on_forget["auc"],
        "forget_acc": on_forget["accuracy"],
        "forget_loss": on_forget["log_loss"],
    }


def relearned(
    case: Case, method: UnlearningMethod, original: Recommender, released: Recommender, seed: int
) -> dict[str, Any]:
    """Measure how fast the released weights learn the batch again; no question for Original."""
    if method.name == ORIGINAL:
        return {"relearn_steps": None, "relearn_censored": None}
    forget = case.batch.forget
    known = log_losses(forget.label.astype(np.float64), answers(original, forget, case.data))
    prompts = released.prompt.samples(forget, case.data)
    found = relearn_steps(released, prompts, forget.label, known, RelearnConfig(), seed)
    return {"relearn_steps": found.steps, "relearn_censored": found.censored}


def never_trained(case: Case) -> Samples:
    """Return validation rows of people who came after the training period: nobody's shadow.

    The paper's protocol trains on everybody, so it has no cohort; these people take its place. No
    choice is made on validation while the benchmark runs: the recipe is fixed.
    """
    valid = case.batch.parts.valid
    return valid.take(~np.isin(valid.user, case.whole.parts.train.user))


def audited(
    case: Case,
    method: UnlearningMethod,
    step: ForgetSplit,
    old: Recommender,
    new: Recommender,
    expected: Mapping[str, ExpectedLossIncrease],
) -> dict[str, Any]:
    """Run and time the product's audit of one release against the one before.

    The gate needs to know how far losses should rise, so it has a verdict for calibrated methods
    alone; of the others only the time is told. Without a cohort there is no audit to time.
    """
    exact = method.exact
    holdout = never_trained(case)
    if not exact and not len(holdout):
        nobody = "nobody came after the training period, so there is no cohort"
        return {"audit_seconds": None, "audit": {"outcome": None, "reason": nobody}}
    prepared = replace(step, parts=replace(step.parts, holdout=holdout))
    started = time.monotonic()
    found = audit_exact(old, new, prepared) if exact else audit(old, new, prepared, expected)
    seconds = time.monotonic() - started
    told = (found.outcome, found.figures["reason"])
    outcome, reason = told if exact or method.calibrated else (None, "only timed: not calibrated")
    return {"audit_seconds": seconds, "audit": {"outcome": outcome, "reason": reason}}
