"""Say in words what is shown about the person, the interactions or the item of one request.

Every place that shows the audit of a request (API, command line, dashboard, certificate) takes its
sentence from here; what is shown about a batch comes from `app.domain.batch_audits`. The sentences
are for privacy officers. No sentence says `passed` about a person whose rows cannot tell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.batch_audits import (
    BATCH_OUTCOMES,
    NOT_MEASURED,
    change_text,
    counts_text,
    people_text,
    rows_text,
    tells_nothing,
)
from app.domain.renewal import ExactMode
from app.domain.requests import Assurance, Outcome, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.domain.requests import ForgetRequest, RequestJob

#: Scope → the subject, with its verb in the past tense.
_SUBJECTS: Final = {
    Scope.USER: ("this person", "was"),
    Scope.USER_ITEMS: ("these interactions", "were"),
    Scope.ITEM: ("this item", "was"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFinding:
    """What the audit shows about one request, in one or a few sentences and as values.

    - `share`: the change of the answers, as a share of the change that is expected of a model that
      never had the data, with its `interval` at the level `confidence`; None if not measured. The
      sentence omits both if the interval contains 0 (no change) and 1 (a retraining).
    - `rows`: the number of rows that were judged.
    - `persons`: the number of persons per outcome, for a request with rows of several persons.
    - `failed_attempts`: the attempts at unlearning whose audit failed; they were never served.
    """

    sentence: str
    outcome: str
    reason: str | None = None
    rows: int | None = None
    share: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    persons: dict[str, int] | None = None
    failed_attempts: int = 0

    def values(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        interval = None if self.interval is None else list(self.interval)
        return asdict(self) | {"interval": interval}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """When a model that never had the data serves. Dates are written YYYY-MM-DD."""

    assurance: Assurance | None = None
    #: The promised date; None if no exact training is promised.
    due_on: str | None = None
    exact_on: str | None = None
    is_off: bool = False

    @classmethod
    def of(cls, request: ForgetRequest, mode: ExactMode | None) -> Prospect:
        """Return the prospect of a request; `mode` is LETHE_EXACT, None if not recorded."""
        return cls(
            assurance=request.assurance,
            due_on=_date(request.exact_due_at),
            exact_on=_date(request.exact_at),
            is_off=mode is ExactMode.OFF,
        )


def finding_of(
    request: ForgetRequest,
    audit: RequestJob | None,
    mode: ExactMode | None,
    *,
    has_release: bool,
) -> AuditFinding | None:
    """Return the finding of a request by the job's audit of this request; None before an audit.

    `has_release` is False for a deletion before the first release.
    """
    outcome = request.outcome or (None if audit is None else audit.outcome)
    if outcome is None:
        return None
    figures = None if audit is None else audit.figures
    prospect = Prospect.of(request, mode)
    return finding(request.scope, outcome, figures, prospect, has_release=has_release)


def finding(
    scope: Scope | None,
    outcome: Outcome,
    figures: Mapping[str, Any] | None,
    prospect: Prospect | None = None,
    *,
    has_release: bool = True,
) -> AuditFinding:
    """Return the finding of a request with this outcome and these figures.

    `figures` are those of the request alone (`worker.learner.RequestFigures`), or None. `scope` is
    None in certificates that do not state it.
    """
    figures = figures or {}
    prospect = prospect or Prospect()
    judged = {} if outcome is Outcome.EXACT else figures.get("forget") or {}
    verdict, persons = judged.get("verdict") or {}, judged.get("persons")
    subject, was = _SUBJECTS.get(scope or Scope.USER, _SUBJECTS[Scope.USER])
    if scope is Scope.USER_ITEMS and verdict.get("kind") == "user":
        subject, was = _SUBJECTS[Scope.USER]  # The same batch forgets the person altogether.
    if outcome is Outcome.EXACT:
        text = _exact(subject, prospect)
    elif outcome is Outcome.NOT_APPLICABLE:
        text = _not_in_weights(subject, figures, has_release=has_release)
    elif verdict and (scope is not Scope.ITEM or persons is None):
        text = _of_verdict(verdict, outcome, subject, was)
    elif persons is not None:
        text = _of_persons(persons)
    else:
        text = _not_judged(outcome, figures, subject, was)
    failed = int(figures.get("failed_attempts") or 0)
    parts = (
        _included_in(figures.get("included_in")),
        _failed_attempts(failed),
        text,
        _outlook(outcome, prospect, subject),
    )
    interval = verdict.get("interval")
    return AuditFinding(
        sentence=" ".join(part for part in parts if part),
        outcome=outcome.value,
        reason=verdict.get("reason"),
        rows=verdict.get("rows", judged.get("rows")),
        share=verdict.get("share"),
        interval=None if interval is None else (interval[0], interval[1]),
        confidence=None if interval is None else verdict.get("confidence"),
        persons=None if persons is None else dict(persons),
        failed_attempts=failed,
    )


def certified_sentence(content: Mapping[str, Any]) -> str | None:
    """Return the sentence of a certificate's content.

    Certificates of earlier versions have no finding. Their sentence is made of what they state, and
    is None if they state no outcome.
    """
    if content.get("finding"):
        return str(content["finding"]["sentence"])
    try:
        outcome = Outcome(content.get("outcome") or "")
        scope = Scope(content["scope"]) if content.get("scope") else None
        assurance = Assurance(content["assurance"]) if content.get("assurance") else None
    except ValueError:
        return None
    terms = content.get("exact") or {}
    prospect = Prospect(
        assurance=assurance,
        due_on=(terms.get("due_at") or "")[:10] or None,
        exact_on=(content.get("exact_at") or "")[:10] or None,
        is_off=terms.get("mode") == ExactMode.OFF,
    )
    has_release = content.get("release") is not None
    stated = finding(scope, outcome, content.get("figures"), prospect, has_release=has_release)
    return stated.sentence


def _exact(subject: str, prospect: Prospect) -> str:
    """Return the sentence about weights that an exact method made."""
    if prospect.assurance is not Assurance.EXACT:
        return f"The weights were made again without the erased rows of {subject}."
    return (
        f"The model was trained without the erased rows of {subject}: no weight, vocabulary entry,"
        " time bound or choice of a checkpoint saw these rows."
    )


def _of_verdict(verdict: Mapping[str, Any], outcome: Outcome, subject: str, was: str) -> str:
    """Return the sentence about one judged person."""
    reason, rows = verdict.get("reason"), verdict.get("rows")
    if outcome is Outcome.PASSED:
        change = change_text(verdict, rows)
        passed = reason if change is None else f"the answers about {subject} {change}"
        return f"The audit passed: {passed}."
    source = "" if rows is None else f" from {rows_text(rows)}"
    if outcome is Outcome.FAILED:
        text = f"The audit failed{source}: {reason}."
    else:
        text = f"The audit cannot tell{source} whether {subject} {was} forgotten: {reason}."
    change = change_text(verdict)
    if change is not None:
        return f"{text} The answers about {subject} {change}."
    # A failure rests on other evidence then, such as answers that did not change.
    is_unmeasured = outcome is Outcome.INCONCLUSIVE and tells_nothing(verdict)
    return f"{text} {NOT_MEASURED}" if is_unmeasured else text


def _of_persons(persons: Mapping[str, int]) -> str:
    """Return the sentence about a request with rows of several persons."""
    count = sum(persons.values())
    return f"This deletion erases training rows of {people_text(count)}: {counts_text(persons)}."


def _not_judged(outcome: Outcome, figures: Mapping[str, Any], subject: str, was: str) -> str:
    """Return the sentence about a request that was not judged alone."""
    validation_rows = figures.get("validation_rows")
    if outcome is Outcome.INCONCLUSIVE and validation_rows:
        return (
            f"No row of {subject} trained the weights, but {rows_text(validation_rows)} chose"
            " between states of the training, which the audit does not measure."
        )
    if outcome is Outcome.INCONCLUSIVE:
        return (
            f"No audit of {subject} alone is recorded, so it cannot be told whether {subject} {was}"
            " forgotten."
        )
    # Earlier versions judged batches only.
    return (
        f"The audit {BATCH_OUTCOMES[outcome]} for the batch as a whole, which does not show whether"
        f" {subject} {was} forgotten."
    )


def _not_in_weights(subject: str, figures: Mapping[str, Any], *, has_release: bool) -> str:
    """Return the sentence about a request without rows in the weights."""
    if not has_release:
        return f"No model existed yet when the deletion of {subject} was completed."
    known_rows = figures.get("known_rows")
    if known_rows is None:
        text = (
            f"No stored row of {subject} trained the weights. It is not recorded whether rows that"
            " an earlier job deleted did"
        )
    else:
        known = "the model never had a row"
        if known_rows:
            known = f"{rows_text(known_rows)} existed at the training, but no row"
        trained = " trained the weights" if known_rows else ""
        text = (
            f"By the record of training, {known} of {subject}{trained}, so nothing had to be"
            " unlearned"
        )
    kept = " and the weights were kept" if figures.get("carried_over") else ""
    return f"{text}{kept}."


def _included_in(request_id: str | None) -> str:
    if request_id is None:
        return ""
    return f"Deleted together with the request {request_id}, whose audit this is."


def _failed_attempts(count: int) -> str:
    if not count:
        return ""
    attempts, was = ("One attempt", "was") if count == 1 else (f"{count} attempts", "were")
    return f"{attempts} at fast unlearning failed the audit and {was} never served."


def _outlook(outcome: Outcome, prospect: Prospect, subject: str) -> str:
    """Return the sentence about the exact training, past or promised."""
    text, exact_on = "", prospect.exact_on
    if prospect.assurance is Assurance.EXACT:
        text = "The deletion is exact."
        if exact_on is not None and outcome is Outcome.EXACT:
            text = f"This model serves since {exact_on}."
        elif exact_on is not None and outcome is not Outcome.NOT_APPLICABLE:
            text = (
                f"Since {exact_on}, a model serves that was trained without the erased rows of"
                f" {subject}."
            )
    elif prospect.assurance is Assurance.APPROXIMATE:
        if prospect.is_off:
            text = "No exact training is promised, because LETHE_EXACT is off."
        elif prospect.due_on is not None:
            text = f"The renewal by {prospect.due_on} trains the model without the erased rows."
    return text


def _date(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d}"
