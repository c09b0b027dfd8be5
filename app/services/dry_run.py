"""Say what a deletion request would do, and when it is expected to be completed and exact.

Nothing is written: the functions work in a unit of work that only reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.domain.jobs import JobKind
from app.domain.renewal import RenewalState, plan
from app.domain.requests import Scope
from app.services.deadlines import Deadlines
from app.services.earlier_requests import covering, replay
from app.services.forget import check_stored
from app.services.renewals import is_interruptible, policy
from app.services.validation import normal_attribution, normal_subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.requests import Subject
    from app.services.forget import ForgetCommand
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBatch:
    """The batch that a new request would be part of."""

    #: Number of requests that wait for a batch now, and of whole batches among them.
    requests_before: int
    batches_before: int
    #: The latest time at which the batch is closed; a full batch is closed earlier.
    closes_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a deletion request would do.

    If an earlier request covers the subject, only `scope` and `covered_by` are set.
    """

    scope: Scope
    covered_by: str | None = None
    #: Table → number of rows that would be deleted.
    rows: Mapping[str, int] = field(default_factory=dict)
    batch: ExpectedBatch | None = None
    cancellable_until: datetime | None = None
    due_at: datetime | None = None
    exact_due_at: datetime | None = None
    #: Estimates from the durations of earlier jobs; None if no such job has been measured.
    expected_completed_at: datetime | None = None
    expected_exact_at: datetime | None = None


def dry_run_forget(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    command: ForgetCommand,
    idempotency_key: str | None = None,
) -> DryRun:
    """Return what `request_forget` would do with the command. Raises the same errors."""
    subject = normal_subject(pseudonyms, command.subject())
    command = replace(command, attribution=normal_attribution(command.attribution, subject))
    earlier = None
    if idempotency_key is not None:
        earlier = replay(uow, pseudonyms, idempotency_key, command)
    earlier = earlier or covering(uow, pseudonyms, command)
    if earlier is not None:
        return DryRun(scope=subject.scope, covered_by=earlier.id)
    is_stored = check_stored(uow, pseudonyms, command, subject)
    now = uow.state.now()
    deadlines = Deadlines.of(settings, now)
    batch = _batch(uow, settings, deadlines.cancellable_until)
    completed_at = _completed_at(uow, batch, now)
    return DryRun(
        scope=subject.scope,
        rows=_rows(uow, subject) if is_stored else {},
        batch=batch,
        cancellable_until=deadlines.cancellable_until,
        due_at=deadlines.due_at,
        exact_due_at=deadlines.exact_due_at,
        expected_completed_at=completed_at,
        expected_exact_at=_exact_at(uow, settings, completed_at, deadlines.exact_due_at),
    )


def _rows(uow: UnitOfWork, subject: Subject) -> dict[str, int]:
    if subject.user_id is None:
        ratings = sum(len(uow.people.raters_of(item_id)) for item_id in subject.item_ids)
        return {"items": len(subject.item_ids), "interactions": ratings}
    if subject.scope is Scope.USER_ITEMS:
        return {"interactions": len(subject.item_ids)}
    return {"users": 1, "interactions": uow.people.count_of(subject.user_id)}


def _batch(uow: UnitOfWork, settings: Settings, cancellable_until: datetime) -> ExpectedBatch:
    waiting = uow.requests.count_waiting()
    return ExpectedBatch(
        requests_before=waiting,
        batches_before=waiting // settings.batch_size,
        closes_at=cancellable_until + timedelta(seconds=settings.batch_seconds),
    )


def _completed_at(uow: UnitOfWork, batch: ExpectedBatch, now: datetime) -> datetime | None:
    """Return the expected completion; None if no forget job has succeeded yet.

    Each batch is expected to take as long as the longest of the last ones.
    """
    seconds = uow.renewals.batch_seconds()
    if not seconds:
        return None
    start_at = max(batch.closes_at, _free_at(uow, now, seconds))
    return start_at + timedelta(seconds=(batch.batches_before + 1) * seconds)


def _free_at(uow: UnitOfWork, now: datetime, batch_seconds: float) -> datetime:
    """Return the time at which the open job, if any, is expected to end."""
    job = uow.jobs.open_job()
    if job is None or is_interruptible(job):
        return now
    trainings = uow.releases.recent_trainings()
    seconds = batch_seconds if job.kind is JobKind.FORGET else max(trainings, default=0.0)
    return max(now, (job.started_at or now) + timedelta(seconds=seconds))


def _exact_at(
    uow: UnitOfWork, settings: Settings, completed_at: datetime | None, exact_due_at: datetime
) -> datetime | None:
    """Return the end of the renewal that is planned once the deletion is completed.

    Without a release, no weights know the data, and the completed deletion is exact.
    """
    if uow.releases.alias().live is None:
        return completed_at
    training_seconds = max(uow.releases.recent_trainings(), default=None)
    if completed_at is None or training_seconds is None:
        return None
    oldest_at, earliest_due_at = uow.renewals.debt()
    state = RenewalState(
        now=completed_at.timestamp(),
        approximate=1,
        oldest_completed_at=min(oldest_at or completed_at, completed_at).timestamp(),
        earliest_due_at=min(earliest_due_at or exact_due_at, exact_due_at).timestamp(),
        training_seconds=training_seconds,
    )
    start_at = plan(state, policy(settings)).start_at
    if start_at is None:
        return None
    end_at = max(start_at, state.now) + training_seconds
    return datetime.fromtimestamp(end_at, UTC)
