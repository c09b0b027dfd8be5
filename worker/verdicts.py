"""Turn the report of an audit into the verdict on the release and the figures of each request."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.requests import Outcome
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.report import AuditReport


def release_verdict(report: AuditReport) -> tuple[Outcome, dict[str, Any]]:
    """Return the outcome of a release, and its figures with the reason of this outcome.

    A release fails also if single persons fail: the whole batch is then unlearned again, by
    stronger settings and then exactly (docs/decisions/0019). A batch of one person has the verdict
    of this person.
    """
    verdicts = list(report.persons.values())
    failed = [verdict for verdict in verdicts if verdict.outcome == FAILED]
    if failed and report.outcome != FAILED:
        reason = f"{len(failed)} of {len(verdicts)} people failed: {failed[0].reason}"
        return Outcome.FAILED, {**report.figures, "reason": reason, "passed": False}
    if report.outcome == PASSED and len(verdicts) == 1 and verdicts[0].outcome != PASSED:
        (verdict,) = verdicts
        figures = {**report.figures, "reason": verdict.reason, "passed": False}
        return Outcome(verdict.outcome), figures
    return Outcome(report.outcome), report.figures


def judged_requests(
    report: AuditReport, groups: Mapping[str, NDArray[np.bool_]], users: NDArray[np.integer]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each request's forget rows, with the verdicts on its persons.

    `groups` are masks over the forget rows, whose user indices are `users`. `persons` counts the
    persons of a request per outcome; a `verdict` also states the confidence of its interval. An
    exact release has no verdicts.
    """
    measured: dict[str, dict[str, Any]] = {}
    for request_id, figures in report.groups.items():
        measured[request_id] = dict(figures)
        if not report.persons or not figures["rows"]:
            continue
        outcomes = Counter(
            report.persons[user].outcome for user in np.unique(users[groups[request_id]]).tolist()
        )
        measured[request_id]["persons"] = {
            outcome: outcomes[outcome] for outcome in (PASSED, FAILED, INCONCLUSIVE)
        }
        if "verdict" in figures:
            confidence = 1 - 2 * report.figures["config"]["pass_level"]
            measured[request_id]["verdict"] = {**figures["verdict"], "confidence": confidence}
    return measured
