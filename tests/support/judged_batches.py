"""Audit batches of people with the product's judgment, on synthetic margins and without models."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.audit_power.power import judge_candidate
from benchmarks.audit_power.world import Margins
from models.audit.outcomes import PASSED
from models.audit.persons import AuditConfig
from models.audit.report import AuditReport
from tests.support import synthetic_batches
from tests.support.synthetic_batches import PEOPLE, ROWS
from worker.learner import RequestFigures
from worker.verdicts import judged_requests, release_verdict

if TYPE_CHECKING:
    from app.domain.requests import Outcome

#: Each person is a request of the batch, and so is an item that all of them rated.
ITEM = "item"


def request_of(person: int) -> str:
    return f"person-{person}"


@cache
def judged_batch(untouched: int = 0, strength: str = "strong") -> AuditReport:
    """Return the audit of a retraining without all people but the first `untouched`."""
    world = synthetic_batches.batch(strength)
    candidate = world.model(np.random.default_rng(2), knows_forget=False)
    users = world.forget.users
    kept, old, new = users < untouched, world.old.forget, candidate.forget
    forget = Margins(
        answers=np.where(kept, old.answers, new.answers),
        neighbors=np.where(kept, old.neighbors, new.neighbors),
    )
    candidate = replace(candidate, forget=forget)
    audit = AuditConfig()
    judgment = judge_candidate(world, candidate, synthetic_batches.calibration(strength), audit)
    persons = {verdict.user: verdict for verdict in judgment.persons}
    groups: dict[str, dict[str, Any]] = {
        request_of(user): {"rows": ROWS, "people": 1, "verdict": verdict.values()}
        for user, verdict in persons.items()
    }
    groups[ITEM] = {"rows": len(users), "people": PEOPLE}
    figures = {
        "reason": judgment.reason,
        "passed": judgment.outcome == PASSED,
        **judgment.figures(),
        "config": asdict(audit),
    }
    return AuditReport(outcome=judgment.outcome, figures=figures, persons=persons, groups=groups)


def judged_request(name: str) -> tuple[Outcome, dict[str, Any]]:
    """Return outcome and figures of a request of a retrained batch, as the worker stores them."""
    report = judged_batch()
    forget = judged_requests(report, masks(), user_of_row())[name]
    figures = RequestFigures(forget=forget, known_rows=forget["rows"])
    return figures.outcome(release_verdict(report)[0]), figures.values()


def masks() -> dict[str, Any]:
    """Return the rows of each request, among the forget rows."""
    users = user_of_row()
    return {request_of(user): users == user for user in range(PEOPLE)} | {
        ITEM: np.ones(len(users), dtype=np.bool_)
    }


def user_of_row() -> Any:
    return np.repeat(np.arange(PEOPLE), ROWS)
