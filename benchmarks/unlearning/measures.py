"""Measure one release: utility, relearning, audit and memory.

`results` compares several runs.
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

from benchmarks.unlearning.names import ORIGINAL
from models.audit.prediction import calibration_error
from models.audit.relearning import RelearnConfig, relearn_steps
from models.audit.report import audit, audit_exact
from models.data.metrics import log_losses, utility
from models.training.step import DivergedError
from models.training.trainer import row_margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case
    from models.audit.person_calibration import PersonCalibration
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.recommender.base import Recommender
    from models.unlearning.base import UnlearningMethod

    Floats = NDArray[np.float64]

_CLEAR_REFS: Final = Path("/proc/self/clear_refs")


class Memory:
    """Peak resident memory of this process since creation, including libraries and data.

    The kernel's high-water mark is reset first. Outside Linux, the peak covers the whole life of
    the process, which has loaded only the inputs of the run by then.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError):
            _CLEAR_REFS.write_text("5", encoding="ascii")  # 5 resets the peak, see proc(5).
        self.before = self.peak()

    @staticmethod
    def peak() -> int:
        """Return the peak in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def sample_margins(recommender: Recommender, samples: Samples, data: Interactions) -> Floats:
    """Return the [M] margins on M samples; raises DivergedError for NaN or infinity."""
    result = row_margins(recommender, samples, data)
    if not np.isfinite(result).all():
        raise DivergedError(DivergedError.__doc__)
    return result


def utilities(case: Case, forget_margins: Floats, test_margins: Floats) -> dict[str, float]:
    """Return AUC, accuracy, log loss and calibration error on the test rows and forget rows."""
    on_test = utility(case.batch.parts.test.label, test_margins)
    on_forget = utility(case.batch.forget.label, forget_margins)
    return {
        "test_auc": on_test["auc"],
        "test_acc": on_test["accuracy"],
        "test_logloss": on_test["log_loss"],
        "test_calibration_error": calibration_error(case.batch.parts.test.label, test_margins),
        "forget_auc": on_forget["auc"],
        "forget_acc": on_forget["accuracy"],
        "forget_loss": on_forget["log_loss"],
    }


def relearning(
    data: Interactions,
    forget: Samples,
    method: UnlearningMethod,
    original: Recommender,
    released: Recommender,
    seed: int,
) -> dict[str, Any]:
    """Return the number of steps that relearn the forget rows; null for Original."""
    if method.name == ORIGINAL:
        return {"relearn_steps": None, "relearn_censored": None}
    original_margins = sample_margins(original, forget, data)
    original_losses = log_losses(forget.label.astype(np.float64), original_margins)
    prompts = released.prompt.samples(forget, data)
    outcome = relearn_steps(released, prompts, forget.label, original_losses, RelearnConfig(), seed)
    return {"relearn_steps": outcome.steps, "relearn_censored": outcome.censored}


def never_trained(case: Case) -> Samples:
    """Return validation rows of users without training rows, in place of holdout users.

    The paper's protocol trains on all users, so it has no holdout users. The validation rows are
    free for this purpose, because the recipe is fixed and nothing is chosen on them.
    """
    valid = case.batch.parts.valid
    return valid.take(~np.isin(valid.user, case.whole.parts.train.user))


def timed_audit(
    case: Case,
    method: UnlearningMethod,
    step: ForgetSplit,
    old: Recommender,
    new: Recommender,
    calibration: PersonCalibration | None,
) -> dict[str, Any]:
    """Run and time the product's audit of a release against the previous release.

    Exact methods always get a verdict. Other methods need holdout users to be audited; without
    calibration, only the time of the audit is returned.
    """
    exact = method.exact
    holdout = never_trained(case)
    if not exact and not len(holdout):
        reason = "all users have training rows, so there are no holdout users"
        return {"audit_seconds": None, "audit": {"outcome": None, "reason": reason}}
    prepared = replace(step, parts=replace(step.parts, holdout=holdout))
    started = time.monotonic()
    report = audit_exact(old, new, prepared) if exact else audit(old, new, prepared, calibration)
    seconds = time.monotonic() - started
    verdict: dict[str, Any] = {"outcome": report.outcome, "reason": report.figures["reason"]}
    if not exact:
        verdict["people"] = report.figures["people"]
    if not exact and not method.calibrated:
        verdict = {"outcome": None, "reason": "only timed: not calibrated"}
    return {"audit_seconds": seconds, "audit": verdict}
