"""From the audit's report to the outcome of a release and of each request, with real judgments."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.requests import Outcome
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from tests.support.judged_batches import (
    ITEM,
    PEOPLE,
    ROWS,
    judged_batch,
    masks,
    request_of,
    user_of_row,
)
from worker.learner import RequestFigures
from worker.verdicts import judged_requests, release_verdict

if TYPE_CHECKING:
    from models.audit.report import AuditReport


def outcomes_of(report: AuditReport) -> dict[str, Outcome]:
    """Return the outcome of each request of the batch."""
    of_batch, _ = release_verdict(report)
    measured = judged_requests(report, masks(), user_of_row())
    return {
        request_id: RequestFigures(forget=forget).outcome(of_batch)
        for request_id, forget in measured.items()
    }


def test_no_request_passes_whose_person_is_inconclusive() -> None:
    report = judged_batch()
    assert release_verdict(report)[0] is Outcome.PASSED
    outcomes = outcomes_of(report)
    of_persons = Counter(verdict.outcome for verdict in report.persons.values())
    assert of_persons[PASSED] > 0
    assert of_persons[INCONCLUSIVE] > 0
    for user, verdict in report.persons.items():
        assert outcomes[request_of(user)] == verdict.outcome
    # The item's rows belong to all these persons, and some of them cannot be told.
    assert outcomes[ITEM] is Outcome.INCONCLUSIVE


def test_figures_count_persons_and_state_the_confidence() -> None:
    report = judged_batch()
    measured = judged_requests(report, masks(), user_of_row())
    persons = measured[ITEM]["persons"]
    assert sum(persons.values()) == PEOPLE
    assert persons[PASSED] == sum(v.outcome == PASSED for v in report.persons.values())
    assert "verdict" not in measured[ITEM]
    verdict = measured[request_of(3)]["verdict"]
    assert verdict["confidence"] == pytest.approx(0.9)
    assert verdict["rows"] == ROWS
    low, high = verdict["interval"]
    assert low < verdict["share"] < high


def test_an_item_passes_if_all_its_persons_do() -> None:
    report = judged_batch()
    passed = {user for user, verdict in report.persons.items() if verdict.outcome == PASSED}
    rows = {ITEM: np.isin(user_of_row(), sorted(passed))}
    groups = {ITEM: report.groups[ITEM]}
    measured = judged_requests(replace(report, groups=groups), rows, user_of_row())
    assert RequestFigures(forget=measured[ITEM]).outcome(Outcome.PASSED) is Outcome.PASSED


def test_a_failed_person_fails_the_release_and_the_reason_says_so() -> None:
    """The batch as a whole does not fail: its reason must not be that of the release."""
    report = judged_batch(untouched=1)
    assert report.outcome != FAILED
    assert {user for user, v in report.persons.items() if v.outcome == FAILED} == {0}
    outcome, figures = release_verdict(report)
    assert outcome is Outcome.FAILED
    assert figures["reason"].startswith(f"1 of {PEOPLE} people failed: ")
    assert figures["passed"] is False
    assert outcomes_of(report)[request_of(0)] is Outcome.FAILED


def test_a_batch_of_one_person_has_the_verdict_of_the_person() -> None:
    report = judged_batch()
    user, verdict = next(
        (user, v) for user, v in report.persons.items() if v.outcome == INCONCLUSIVE
    )
    alone = replace(report, outcome=PASSED, persons={user: verdict})
    outcome, figures = release_verdict(alone)
    assert outcome is Outcome.INCONCLUSIVE
    assert (figures["reason"], figures["passed"]) == (verdict.reason, False)


def test_no_verdict_is_no_pass() -> None:
    figures = RequestFigures(forget={"rows": 5})
    assert figures.outcome(Outcome.PASSED) is Outcome.INCONCLUSIVE
    assert figures.outcome(Outcome.FAILED) is Outcome.FAILED
    assert figures.outcome(Outcome.EXACT) is Outcome.EXACT


def test_rows_of_which_the_record_cannot_tell_do_not_pass() -> None:
    figures = RequestFigures(forget={"rows": 5, "persons": {"passed": 1}}, is_unknown=True)
    assert figures.outcome(Outcome.PASSED) is Outcome.INCONCLUSIVE
