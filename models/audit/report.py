"""Runs the audit of one candidate release and gathers every figure with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.audit.divergence import euclidean, jensen_shannon, symmetrized_kl
from models.audit.gate import (
    PASSED,
    Decision,
    Expectation,
    GateConfig,
    contrast,
    decide,
    paired_difference,
)
from models.audit.membership import membership_auc
from models.data.forget_split import KINDS
from models.data.metrics import log_losses, utility
from models.training.trainer import margins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.calibration import ExpectedLossIncrease
    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.recommender.base import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """`outcome` is one of the gate's three or `exact`; figures are JSON values."""

    outcome: str
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Compared:
    """Labels and both models' margins on the same rows."""

    labels: NDArray[np.float64]
    old: NDArray[np.float64]
    new: NDArray[np.float64]

    def losses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (
            log_losses(self.labels, self.old).astype(np.float64),
            log_losses(self.labels, self.new).astype(np.float64),
        )


def _compare(
    old: Recommender, new: Recommender, samples: Samples, prepared: ForgetSplit
) -> _Compared:
    def answers(recommender: Recommender) -> NDArray[np.float64]:
        # Each in its own tokens: a retrained model's vocabulary comes from today's catalogue.
        prompts = recommender.prompt.samples(samples, prepared.retained)
        return margins(recommender, prompts).numpy().astype(np.float64)

    return _Compared(labels=samples.label.astype(np.float64), old=answers(old), new=answers(new))


def expectation(prepared: ForgetSplit, expected: Mapping[str, ExpectedLossIncrease]) -> Expectation:
    """Return what this batch's mix of rows should show."""
    shares = [(kind, float((prepared.forget_kind == i).mean())) for i, kind in enumerate(KINDS)]
    known = [(share, expected[kind]) for kind, share in shares if kind in expected]
    return Expectation(
        mean=sum(share * loss_increase.mean for share, loss_increase in known),
        error=sum(share * loss_increase.error for share, loss_increase in known),
        spread=sum(share * loss_increase.spread for share, loss_increase in known),
        units=len(np.unique(prepared.forget.user)),
    )


def audit(
    old: Recommender,
    new: Recommender,
    prepared: ForgetSplit,
    expected: Mapping[str, ExpectedLossIncrease],
    config: GateConfig | None = None,
) -> AuditReport:
    """Compare a candidate with its parent on the forget rows, the cohort and the test rows.

    The cohort and the test rows neither trained nor chose anything; rows of the forgotten are on
    neither side, because `prepared.parts` holds retained rows only.
    """
    config = config or GateConfig()
    forget = _compare(old, new, prepared.forget, prepared)
    holdout = _compare(old, new, prepared.parts.holdout, prepared)
    test = _compare(old, new, prepared.parts.test, prepared)
    moved = paired_difference(*forget.losses(), config.confidence)
    stayed = paired_difference(*holdout.losses(), config.confidence)
    tested = paired_difference(*test.losses(), config.confidence)
    movement = contrast(moved, stayed)
    wanted = expectation(prepared, expected)
    decision = decide(
        movement,
        stayed,
        tested,
        wanted,
        config,
        unchanged=bool(np.array_equal(forget.old, forget.new)),
    )
    figures = {
        **_decision_figures(decision, wanted),
        "forget": moved.figures(),
        "holdout": stayed.figures(),
        "movement": movement.figures(),
        "test": tested.figures(),
        "utility": {
            "before": utility(test.labels, test.old),
            "after": utility(test.labels, test.new),
        },
        "forget_utility": {
            "before": utility(forget.labels, forget.old),
            "after": utility(forget.labels, forget.new),
        },
        "membership": {
            "before": membership_auc(forget.losses()[0], holdout.losses()[0]),
            "after": membership_auc(forget.losses()[1], holdout.losses()[1]),
        },
        "divergence": {
            name: _distances(part) for name, part in (("forget", forget), ("holdout", holdout))
        },
        "config": asdict(config),
    }
    return AuditReport(outcome=decision.outcome, figures=figures)


def audit_exact(old: Recommender, new: Recommender, prepared: ForgetSplit) -> AuditReport:
    """Report on an exact retraining, which is exempt from gates relative to the old release."""
    test = _compare(old, new, prepared.parts.test, prepared)
    figures = {
        "reason": "retrained from scratch without the data",
        "utility": {
            "before": utility(test.labels, test.old),
            "after": utility(test.labels, test.new),
        },
    }
    return AuditReport(outcome="exact", figures=figures)


def _decision_figures(decision: Decision, wanted: Expectation) -> dict[str, Any]:
    return {
        "reason": decision.reason,
        "passed": decision.outcome == PASSED,
        "expected": asdict(wanted),
        "floor": decision.floor,
        "ceiling": decision.ceiling,
    }


def _distances(part: _Compared) -> dict[str, float]:
    return {
        "jsd": jensen_shannon(part.old, part.new),
        "symmetrised_kl": symmetrized_kl(part.old, part.new),
        "l2": euclidean(part.old, part.new),
    }
