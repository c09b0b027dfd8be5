"""Audit one candidate release: judge the batch and its persons, and collect all figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from models.audit.answers import forget_answers, gather
from models.audit.differences import paired_difference
from models.audit.divergence import euclidean, jensen_shannon, symmetrized_kl
from models.audit.drift import RowLosses
from models.audit.judgment import Judgment, has_judged_kind, judge
from models.audit.membership import membership_auc
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from models.audit.persons import AuditConfig, PersonVerdict
from models.audit.quality import UNTRAINED, has_finite_weights, judge_quality
from models.data.forget_split import KINDS
from models.data.metrics import log_losses, utility
from models.training.trainer import row_margins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.calibration import ExpectedLossIncrease
    from models.audit.person_calibration import PersonCalibration
    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.recommender.base import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The outcome (of the judgment, or `exact`), and the figures as JSON values.

    `groups`: the loss increase of each group of forget rows, with its interval and its number of
    rows, and `verdict` if the rows are those of one judged person. A group without rows has only
    its number of rows. `persons`: the verdict on each user index with forget rows; for a user with
    rows of several kinds, the worst verdict.
    """

    outcome: str
    figures: dict[str, Any]
    persons: dict[int, PersonVerdict] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The candidate's losses on the rows by which `models.audit.drift` compares a lineage.
    losses: dict[str, RowLosses] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Comparison:
    """User indices, labels (0 or 1) and both models' margins on the same M rows, each [M]."""

    users: NDArray[np.int32]
    labels: NDArray[np.float64]
    old: NDArray[np.float64]
    new: NDArray[np.float64]

    @property
    def losses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both models' [M] log losses (nats)."""
        return (
            log_losses(self.labels, self.old).astype(np.float64),
            log_losses(self.labels, self.new).astype(np.float64),
        )

    @property
    def row_losses(self) -> tuple[RowLosses, RowLosses]:
        """Return both models' log losses with the rows' users."""
        old, new = self.losses
        return RowLosses(users=self.users, losses=old), RowLosses(users=self.users, losses=new)

    @property
    def utility(self) -> dict[str, dict[str, float]]:
        """Return AUC, accuracy and log loss of both models."""
        return {
            "before": utility(self.labels, self.old),
            "after": utility(self.labels, self.new),
        }

    @property
    def distances(self) -> dict[str, float]:
        """Return the distances between both models' answers."""
        return {
            "jsd": jensen_shannon(self.old, self.new),
            "symmetrised_kl": symmetrized_kl(self.old, self.new),
            "l2": euclidean(self.old, self.new),
        }


def _compare(
    old: Recommender, new: Recommender, samples: Samples, prepared: ForgetSplit
) -> _Comparison:
    return _Comparison(
        users=samples.user,
        labels=samples.label.astype(np.float64),
        old=row_margins(old, samples, prepared.retained),
        new=row_margins(new, samples, prepared.retained),
    )


def expected_mean(prepared: ForgetSplit, expected: Mapping[str, ExpectedLossIncrease]) -> float:
    """Return the expected loss increase (nats) of a batch: the mean over its kinds of rows."""
    return sum(
        float((prepared.forget_kind == index).mean()) * expected[kind].mean
        for index, kind in enumerate(KINDS)
        if kind in expected
    )


def audit(
    old: Recommender,
    new: Recommender,
    prepared: ForgetSplit,
    calibration: PersonCalibration | None,
    config: AuditConfig | None = None,
    *,
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
) -> AuditReport:
    """Compare a candidate with its parent on the forget, control, holdout and test rows.

    `calibration` is that of the lineage's exact training; None, or one of another version, makes
    every person inconclusive. `groups`: masks over the forget rows, which may overlap; they change
    no decision. Holdout and test rows were used neither for training nor for choosing a state. Rows
    of forgotten users are in neither group, because `prepared.parts` contains retained rows only.
    """
    config = config or AuditConfig()
    answers = forget_answers(old, new, prepared)
    forget = _Comparison(
        users=prepared.forget.user, labels=answers.labels, old=answers.old, new=answers.new
    )
    holdout = _compare(old, new, prepared.parts.holdout, prepared)
    test = _compare(old, new, prepared.parts.test, prepared)
    forget_change, holdout_change, test_change = (
        paired_difference(*part.losses, part.users, config.confidence)
        for part in (forget, holdout, test)
    )
    # The other answers cost more passes through the model, often many more than the forget rows.
    can_judge = calibration is not None and has_judged_kind(answers, calibration)
    judgment = judge(
        gather(old, new, prepared, answers) if can_judge else answers,
        calibration,
        holdout=holdout_change,
        test=test_change,
        config=config,
    )
    figures = {
        "reason": judgment.reason,
        "passed": judgment.outcome == PASSED,
        **judgment.figures(),
        "forget": forget_change.figures(),
        "holdout": holdout_change.figures(),
        "test": test_change.figures(),
        "utility": test.utility,
        "forget_utility": forget.utility,
        "membership": {
            "before": membership_auc(forget.row_losses[0], holdout.row_losses[0]),
            "after": membership_auc(forget.row_losses[1], holdout.row_losses[1]),
        },
        "divergence": {"forget": forget.distances, "holdout": holdout.distances},
        "config": asdict(config),
    }
    persons = _worst_verdicts(judgment)
    return AuditReport(
        outcome=judgment.outcome,
        figures=figures,
        persons=persons,
        groups=_group_figures(forget, groups or {}, config, persons),
        losses={
            "audit": test.row_losses[1],
            "holdout": holdout.row_losses[1],
        },
    )


def _worst_verdicts(judgment: Judgment) -> dict[int, PersonVerdict]:
    """Return one verdict per user: failed before inconclusive before passed."""
    severity = (PASSED, INCONCLUSIVE, FAILED).index
    ordered = sorted(judgment.persons, key=lambda verdict: severity(verdict.outcome))
    return {verdict.user: verdict for verdict in ordered}


def audit_exact(
    old: Recommender,
    new: Recommender,
    prepared: ForgetSplit,
    *,
    known: ForgetSplit | None = None,
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
    is_trained: bool = True,
) -> AuditReport:
    """Report on an exact retraining, which is not judged against the old release.

    `known`: the split of the old release, if `groups` of its forget rows are measured. The new
    release has time bounds of its own, in `prepared`. `is_trained` is False for initial weights.
    The outcome is `failed` only for weights or answers that are not numbers.
    """
    test = _compare(old, new, prepared.parts.test, prepared)
    is_finite = has_finite_weights(new) and bool(np.isfinite(test.new).all())
    if is_trained or not is_finite:
        quality = judge_quality(test.old, test.new, prepared, is_finite=is_finite)
    else:
        quality = UNTRAINED
    figures = {
        "reason": "retrained from scratch without the data",
        "utility": test.utility,
        "quality": quality.figures(),
    }
    measured: dict[str, dict[str, Any]] = {}
    if known is not None and groups:
        forget = _compare(old, new, known.forget, known)
        measured = _group_figures(forget, groups, AuditConfig(), {})
    outcome = "exact" if is_finite else FAILED
    return AuditReport(outcome=outcome, figures=figures, groups=measured)


def _group_figures(
    forget: _Comparison,
    groups: Mapping[str, NDArray[np.bool_]],
    config: AuditConfig,
    persons: Mapping[int, PersonVerdict],
) -> dict[str, dict[str, Any]]:
    old, new = forget.losses
    measured: dict[str, dict[str, Any]] = {}
    for name, rows in groups.items():
        if not rows.any():
            measured[name] = {"rows": 0}
            continue
        users = forget.users[rows]
        change = paired_difference(old[rows], new[rows], users, config.confidence)
        measured[name] = change.figures()
        if change.people == 1 and (verdict := persons.get(int(users[0]))) is not None:
            measured[name]["verdict"] = verdict.values()
    return measured
