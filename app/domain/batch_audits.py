"""Say in words what the audit of weights shows about a batch as a whole, not about one person.

`app.domain.findings` says what is shown about single requests, with the same words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from app.domain.requests import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.jobs import Job

_EXPECTED: Final = "of what is expected of a model that never had the data"
_KIND_NAMES: Final = {"user": "people", "item": "items", "pair": "single interactions"}
NOT_MEASURED: Final = (
    "How much the answers changed cannot be measured, because the rows are too few or the expected"
    " change is too small: the answers may be unchanged, and may be those of a model that never had"
    " the data."
)
BATCH_OUTCOMES: Final = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.INCONCLUSIVE: "cannot be told",
}


def audits_of(job: Job) -> list[dict[str, Any]]:
    """Return what was built and audited in a job, in order, with a sentence for each attempt.

    An attempt is repeated under a higher epoch if its worker was interrupted.
    """
    attempts = []
    for attempt in job.metrics.get("tries", []):
        outcome = None if attempt.get("outcome") is None else Outcome(attempt["outcome"])
        sentence = batch_sentence(outcome, attempt.get("audit") or {})
        unmeasured = attempt.get("unmeasured_kinds")
        if sentence and unmeasured:
            sentence = f"{sentence} {unmeasured_text(unmeasured)}"
        attempts.append(
            {
                "attempt": attempt.get("attempt"),
                "epoch": attempt.get("epoch"),
                "method": attempt.get("method"),
                "outcome": None if outcome is None else outcome.value,
                "sentence": sentence,
            }
        )
    return attempts


def batch_sentence(outcome: Outcome | None, audit: Mapping[str, Any]) -> str | None:
    """Return what the audit of a release says about its batch as a whole, not about a person.

    None for a release without an audit.
    """
    if outcome is None:
        return None
    if outcome is Outcome.EXACT:
        return "Trained from scratch without the data of the batch, so no comparison is needed."
    if outcome is Outcome.NOT_APPLICABLE:
        return "The weights do not depend on the data of the batch, so they were kept."
    if audit.get("diverged"):
        return "The training diverged. These weights were never served."
    sentences = []
    people = audit.get("people")
    if isinstance(people, dict) and sum(people.values()):
        count = sum(people.values())
        sentences.append(f"{people_text(count)} in the batch: {counts_text(people)}.")
    reason = f": {audit['reason']}" if audit.get("reason") else ""
    sentences.append(f"The batch as a whole {BATCH_OUTCOMES[outcome]}{reason}.")
    level = (audit.get("config") or {}).get("pass_level")
    for kind in (audit.get("kinds") or {}).values():
        share = (kind.get("shares") or {}).get("answers") or {}
        values = {**share, "confidence": None if level is None else 1 - 2 * level}
        change = change_text(values, kind.get("rows"))
        if change is not None:
            sentences.append(f"Together, the answers {change}.")
        elif outcome is Outcome.INCONCLUSIVE and tells_nothing(values):
            sentences.append(NOT_MEASURED)
    if outcome is Outcome.FAILED:
        sentences.append("These weights were never served.")
    return " ".join(sentences)


def unmeasured_text(kinds: Sequence[str]) -> str:
    """Return why a batch with these kinds of rows was trained exactly without another attempt."""
    names = " and ".join(_KIND_NAMES[kind] for kind in kinds)
    return (
        "Fast unlearning was not tried: on this release, it is not shown that it moves answers"
        f" about {names} toward those of retraining."
    )


def counts_text(persons: Mapping[str, int]) -> str:
    """Return the number of persons per outcome in words."""
    passed, failed, unsure = (
        persons.get(outcome.value, 0)
        for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.INCONCLUSIVE)
    )
    return f"the audit passed for {passed}, failed for {failed} and cannot tell for {unsure}"


def change_text(values: Mapping[str, Any], rows: int | None = None) -> str | None:
    """Return the share of the expected change, with its interval and the number of rows, in words.

    None if the share was not measured, or if its interval tells nothing.
    """
    share, bounds = values.get("share"), values.get("interval") or (None, None)
    if share is None or None in bounds or not all(map(math.isfinite, (share, *bounds))):
        return None
    if tells_nothing(values):
        return None
    confidence = values.get("confidence")
    level = "" if confidence is None else f"{_percent(confidence)} "
    low, high = map(_percent, bounds)
    source = "" if rows is None else f", from {rows_text(rows)}"
    return f"changed by {_percent(share)} {_EXPECTED} ({level}interval {low} to {high}){source}"


def tells_nothing(values: Mapping[str, Any]) -> bool:
    """Return whether the interval of a share contains both 0 (no change) and 1 (a retraining)."""
    low, high = values.get("interval") or (None, None)
    return low is not None and high is not None and bool(low <= 0 and high >= 1)


def _percent(value: float) -> str:
    return f"{round(100 * value):,} %"


def rows_text(count: int) -> str:
    """Return a number of rows with its noun."""
    return "1 row" if count == 1 else f"{count:,} rows"


def people_text(count: int) -> str:
    """Return a number of people with its noun."""
    return "1 person" if count == 1 else f"{count:,} people"
