"""What is known about the next renewal, for `/readyz`, metrics and warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.domain.jobs import Job, JobKind, RenewalHistory
from app.domain.renewal import ExactMode, effective_mode, plan
from app.services.renewals import policy, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.renewal import RenewalState
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalOutlook:
    """The next renewal, or the one that runs, and the deletions that it makes exact."""

    #: None: no renewal is planned.
    start_at: datetime | None = None
    reason: str | None = None
    #: Number of completed deletions that are approximate, and the earliest deadline of one.
    approximate: int = 0
    earliest_due_at: datetime | None = None
    #: Seconds until that deadline, negative after it; None without an approximate deletion.
    seconds_left: float | None = None
    #: Whether the next exact training cannot end before that deadline.
    is_late: bool = False
    #: Number of deletions, open ones included, whose deadline has passed.
    overdue: int = 0
    #: The renewals since the last exact training.
    history: RenewalHistory = field(default_factory=RenewalHistory)
    #: Result → number of all renewals that the scheduler started.
    totals: Mapping[str, int] = field(default_factory=dict)


def read_outlook(uow: UnitOfWork, settings: Settings, job: Job | None) -> RenewalOutlook:
    """Read the outlook; `job` is the open job."""
    state = read_state(uow, settings)
    totals = uow.renewals.totals()
    is_off = effective_mode(policy(settings), state.training_seconds) is ExactMode.OFF
    overdue = 0 if is_off else uow.renewals.count_overdue()
    if not state.approximate:
        return RenewalOutlook(overdue=overdue, totals=totals)
    start_at, reason, is_late = _next(state, settings, job)
    due_at = state.earliest_due_at
    return RenewalOutlook(
        start_at=_time(start_at),
        reason=reason,
        approximate=uow.renewals.count_approximate(),
        earliest_due_at=_time(due_at),
        seconds_left=None if due_at is None else due_at - state.now,
        is_late=is_late and not is_off,
        overdue=overdue,
        history=uow.renewals.history(uow.renewals.last_exact_at()),
        totals=totals,
    )


def _next(
    state: RenewalState, settings: Settings, job: Job | None
) -> tuple[float | None, str | None, bool]:
    """Return start, reason and lateness of the training that runs, or of the planned renewal."""
    if job is not None and job.kind is not JobKind.FORGET:
        start_at = job.created_at.timestamp()
        end_at = max(state.now, start_at + (state.training_seconds or 0.0))
        is_late = state.earliest_due_at is not None and end_at > state.earliest_due_at
        return start_at, job.renewal_reason or job.kind.value, is_late
    planned = plan(state, policy(settings))
    reason = None if planned.reason is None else planned.reason.value
    planned_at = None if planned.start_at is None else max(planned.start_at, state.now)
    return planned_at, reason, planned.is_late


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
