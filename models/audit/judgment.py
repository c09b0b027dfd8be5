"""Judge a release from its answers: the batch, every person, and the rows of other people.

This module combines the tests of `models.audit.persons` and `models.audit.batches`, and gives the
outcome where these tests cannot be applied. The module reads numbers only, so that the power of the
audit can be measured on synthetic margins (`python -m benchmarks.audit_power`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.batches import BatchVerdict, collateral_check, judge_batch
from models.audit.evidence import VIEWS, Evidence
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from models.audit.person_calibration import MINIMUM_PEOPLE
from models.audit.person_model import LEAST_DEVIATION
from models.audit.persons import FORGOTTEN, AuditConfig, PersonVerdict, judge_persons
from models.audit.shares import PersonShares
from models.data.forget_split import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.differences import Difference
    from models.audit.evidence import AnsweredRows, Answers
    from models.audit.person_calibration import PersonCalibration

#: A batch may have this many times as many people as the shadow model left out.
LARGEST_BATCH: Final = 1.25

BROKEN: Final = "the answers are not numbers: the weights are broken"
UNCHANGED: Final = "no answer about this data changed: nothing was unlearned"
OLD_BROKEN: Final = "the answers of the previous release are not numbers"
NO_ROWS: Final = "there are no rows to measure"
NO_CALIBRATION: Final = "the release has no calibration with a shadow model of this version"
NO_CONTROLS: Final = f"fewer than {MINIMUM_PEOPLE} people remain to compare with"
FEW_LEFT_OUT: Final = f"the shadow model left out fewer than {MINIMUM_PEOPLE} people with such rows"
FEW_COMPARED: Final = f"the shadow model was compared on fewer than {MINIMUM_PEOPLE} other people"
FLAT_CALIBRATION: Final = "the people whom the shadow model left out have no rows that differ"
BAD_CALIBRATION: Final = "the calibration with the shadow model is not numbers"
LARGE_BATCH: Final = "the batch has more people than the calibration covers"
UNSURE_BATCH: Final = "the batch as a whole was not told from one that did not forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """The outcome of a release, the reason, figures per kind of row, and each person's verdict."""

    outcome: str
    reason: str
    batches: Mapping[str, BatchVerdict] = field(default_factory=dict)
    persons: tuple[PersonVerdict, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return JSON values without values of single persons."""
        outcomes = [person.outcome for person in self.persons]
        return {
            "people": {name: outcomes.count(name) for name in (PASSED, FAILED, INCONCLUSIVE)},
            "kinds": {
                kind: {"outcome": batch.outcome, "reason": batch.reason, **batch.figures}
                for kind, batch in self.batches.items()
            },
        }


def has_judged_kind(rows: Answers, calibration: PersonCalibration) -> bool:
    """Return whether the calibration has models for some of the rows."""
    return any((rows.kinds == KINDS.index(kind)).any() for kind in calibration.models)


def judge(
    evidence: Evidence | Answers,
    calibration: PersonCalibration | None,
    *,
    holdout: Difference,
    test: Difference,
    config: AuditConfig,
) -> Judgment:
    """Judge a release; `holdout` and `test` are loss increases (nats) on rows of other people.

    The answers on the forget rows are enough as evidence if no person can be judged, because the
    calibration has no model for their kinds of rows (`has_judged_kind`).

    Both groups fail a release that surely increased the loss. Only the test rows, which belong to
    many people, must also rule out an increase: with about 20 holdout users, an increase cannot be
    told from the noise of another seed.

    Every failure of a rule that needs no calibration comes first: broken weights, unchanged
    answers, and loss increases of other people.
    """
    forget = evidence.forget if isinstance(evidence, Evidence) else evidence
    controls = evidence.controls if isinstance(evidence, Evidence) else None
    checks = [
        collateral_check(holdout, config, "holdout users"),
        collateral_check(test, config, "test rows"),
    ]
    is_broken = not (np.isfinite(holdout.mean) and np.isfinite(test.mean))
    are_numbers = forget.has_new_numbers and (controls is None or controls.has_new_numbers)
    if is_broken or not are_numbers:
        return _same_for_all(forget, FAILED, BROKEN)
    if len(forget) and np.array_equal(forget.old, forget.new):
        return _same_for_all(forget, FAILED, UNCHANGED)
    reason = _reason_against(forget, controls, calibration)
    if reason is not None or calibration is None or not isinstance(evidence, Evidence):
        judgment = _same_for_all(forget, INCONCLUSIVE, reason or NO_CALIBRATION)
    else:
        judgment = _judge_people(evidence, calibration, config)
    worst = min(checks, key=lambda check: check.p_fail)
    if worst.p_fail < config.fail_level / len(checks):
        return _overruled(judgment, FAILED, worst.failed)
    if judgment.outcome == PASSED and checks[1].p_pass >= config.pass_level:
        return _overruled(judgment, INCONCLUSIVE, checks[1].unsure)
    return judgment


def _overruled(judgment: Judgment, outcome: str, reason: str) -> Judgment:
    """Return the judgment with another outcome; no person passes in a release that did not."""
    persons = tuple(_capped(verdict) for verdict in judgment.persons)
    return replace(judgment, outcome=outcome, reason=reason, persons=persons)


def _judge_people(
    evidence: Evidence, calibration: PersonCalibration, config: AuditConfig
) -> Judgment:
    forget, controls = evidence.forget, evidence.controls
    batches: dict[str, BatchVerdict] = {}
    persons: list[PersonVerdict] = []
    # Each kind has tests of its own; together they have the level (Bonferroni).
    level = config.fail_level / max(1, len(np.unique(forget.kinds)))
    config = replace(config, fail_level=level)
    for index, kind in enumerate(KINDS):
        rows = forget.take(forget.kinds == index)
        if not len(rows):
            continue
        reason = _reason_against_kind(rows, kind, calibration)
        if reason is not None:
            batches[kind] = BatchVerdict(outcome=INCONCLUSIVE, reason=reason, figures={})
            persons += _same_for_all(rows, INCONCLUSIVE, reason).persons
            continue
        views = Evidence(forget=rows, controls=controls).views()
        shares = {
            view: PersonShares.of(views[view], calibration.models[kind][view]) for view in VIEWS
        }
        batches[kind] = judge_batch(shares, config)
        judged = judge_persons(shares, kind, config)
        if batches[kind].outcome != PASSED:
            judged = [_capped(verdict) for verdict in judged]
        persons += judged
    decisive = _decisive(batches)
    return Judgment(
        outcome=decisive.outcome, reason=decisive.reason, batches=batches, persons=tuple(persons)
    )


def _decisive(batches: Mapping[str, BatchVerdict]) -> BatchVerdict:
    """Return the worst verdict of the kinds."""
    for outcome in (FAILED, INCONCLUSIVE):
        for verdict in batches.values():
            if verdict.outcome == outcome:
                return verdict
    return BatchVerdict(outcome=PASSED, reason=FORGOTTEN, figures={})


def _capped(verdict: PersonVerdict) -> PersonVerdict:
    """Return the verdict, inconclusive instead of passed."""
    if verdict.outcome != PASSED:
        return verdict
    return replace(verdict, outcome=INCONCLUSIVE, reason=UNSURE_BATCH)


def _reason_against(
    forget: Answers, controls: AnsweredRows | None, calibration: PersonCalibration | None
) -> str | None:
    """Return the reason why no person can be judged, or None."""
    if not len(forget):
        return NO_ROWS
    if not (forget.has_numbers and (controls is None or controls.has_numbers)):
        return OLD_BROKEN
    if calibration is None:
        return NO_CALIBRATION
    if controls is None:
        kinds = [KINDS[index] for index in np.unique(forget.kinds).tolist()]
        return _reason_without_model(kinds, calibration)
    if len(np.unique(controls.users)) < MINIMUM_PEOPLE:
        return NO_CONTROLS
    return None


def _reason_against_kind(
    rows: AnsweredRows, kind: str, calibration: PersonCalibration
) -> str | None:
    if kind not in calibration.models:
        return _reason_without_model([kind], calibration)
    models = calibration.models[kind].values()
    if not all(model.is_finite for model in models):
        return BAD_CALIBRATION
    if min(model.deviations.row for model in models) < LEAST_DEVIATION:
        return FLAT_CALIBRATION
    if len(np.unique(rows.users)) > LARGEST_BATCH * calibration.people[kind]:
        return LARGE_BATCH
    return None


def _reason_without_model(kinds: list[str], calibration: PersonCalibration) -> str:
    """Return why the calibration has no model of these kinds of rows."""
    fewest = min(calibration.people.get(kind, 0) for kind in kinds)
    return FEW_LEFT_OUT if fewest < MINIMUM_PEOPLE else FEW_COMPARED


def _same_for_all(rows: Answers, outcome: str, reason: str) -> Judgment:
    """Return a judgment with one outcome for the batch and for each person."""
    persons = []
    for index, kind in enumerate(KINDS):
        users, counts = np.unique(rows.users[rows.kinds == index], return_counts=True)
        persons += [
            PersonVerdict(user=user, kind=kind, outcome=outcome, reason=reason, rows=count)
            for user, count in zip(users.tolist(), counts.tolist(), strict=True)
        ]
    return Judgment(outcome=outcome, reason=reason, persons=tuple(persons))
