"""Schedule jobs: renewals, which make approximate deletions exact, and batches of deletions.

`app.domain.renewal.decide` decides; `schedule` carries out the decision in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import ConflictError, JobRunningError
from app.domain.jobs import INTERRUPTIBLE_STATUSES, Job, JobKind
from app.domain.renewal import (
    Action,
    ExactMode,
    RenewalPolicy,
    RenewalReason,
    RenewalState,
    decide,
    plan,
)
from app.domain.requests import RequestStatus
from app.services.batches import batch_due_at, next_batch
from app.services.jobs import close_batch, start_training
from app.services.retries import retry_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from app.domain.releases import Release
    from app.domain.requests import ForgetRequest
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

_DAY: Final = 86_400.0
#: A renewal for its deadline starts earlier than needed by this share of LETHE_EXACT_DAYS, but by
#: one day at most.
_MARGIN_SHARE: Final = 0.1
_LARGEST_MARGIN: Final = _DAY
#: The shortest time between two tries of a renewal, in seconds, also with LETHE_RETRY_DELAY=0:
#: without a pause, a renewal that always fails would leave no time for batches.
MIN_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """The open job for which a deletion request waits."""

    job: str
    kind: JobKind
    #: Why the scheduler started the renewal; None for a training that an operator started.
    reason: str | None


def policy(settings: Settings) -> RenewalPolicy:
    """Return the settings of renewals."""
    return RenewalPolicy(
        mode=settings.exact,
        soon_seconds=settings.exact_soon_seconds,
        drift_rows=settings.drift_rows,
        drift_loss=settings.drift_loss,
        margin_seconds=min(_LARGEST_MARGIN, _MARGIN_SHARE * settings.exact_days * _DAY),
    )


def schedule(uow: UnitOfWork, settings: Settings) -> Job | None:
    """Start the renewal or close the batch that is due, and return the new job, if any.

    A batch may interrupt a renewal. Several processes may call this at once: at most one of them
    creates a job.
    """
    job = uow.jobs.open_job()
    if job is not None and not is_interruptible(job):
        return None
    state = _read_state(uow, settings, job)
    action = decide(state, policy(settings))
    if action is Action.CLOSE_BATCH:
        return close_batch(uow, settings)
    if action is Action.START_RENEWAL:
        return _start(uow, plan(state, policy(settings)).reason)
    if action is Action.PREEMPT and job is not None:
        return _preempt(uow, settings, job)
    return None


def replace_lost_release(uow: UnitOfWork, settings: Settings) -> Job | None:
    """Start a renewal for a live release without files, also with LETHE_EXACT=off.

    Return None while the renewal waits after a failure or a cancel. Raises RestoringError while
    deletions are repeated after a restore.
    """
    now = uow.state.now().timestamp()
    state = RenewalState(
        now=now, approximate=1, is_restored=True, **_of_history(uow, settings, now)
    )
    if not plan(state, replace(policy(settings), mode=ExactMode.SOON)).is_due(now):
        return None
    return _start(uow, RenewalReason.RESTORED)


def read_state(uow: UnitOfWork, settings: Settings) -> RenewalState:
    """Read the facts of the decision. `approximate` is 1 for any number of deletions.

    Without an approximate deletion, only the facts about batches are read.
    """
    return _read_state(uow, settings, uow.jobs.open_job())


def is_renewal_due(uow: UnitOfWork, settings: Settings) -> bool:
    """Return whether a renewal would start now if no other job were open."""
    state = read_state(uow, settings)
    return plan(state, policy(settings)).is_due(state.now) and not state.is_restoring


def is_interruptible(job: Job) -> bool:
    """Return whether a batch may interrupt the job: a scheduled renewal without a release."""
    return (
        job.renewal_reason is not None
        and job.status in INTERRUPTIBLE_STATUSES
        and job.release is None
    )


def waits_for(uow: UnitOfWork, requests: Iterable[ForgetRequest]) -> dict[str, Blocker]:
    """Return the training for which requests wait, by request id.

    A request waits if a batch could take it now and a training or renewal is open.
    """
    job = uow.jobs.open_job()
    if job is None or job.kind is JobKind.FORGET:
        return {}
    now = uow.state.now()
    blocker = Blocker(job=job.id, kind=job.kind, reason=job.renewal_reason)
    return {request.id: blocker for request in requests if _waits(request, now)}


def _waits(request: ForgetRequest, now: datetime) -> bool:
    if request.status is RequestStatus.SCHEDULED:
        return request.cancellable_until <= now
    return request.status is RequestStatus.BATCHED and request.job_id is None


def _start(uow: UnitOfWork, reason: RenewalReason | None) -> Job | None:
    """Start a renewal. Return None if another process has created a job meanwhile."""
    history = uow.renewals.history(uow.renewals.last_exact_at())
    facts: dict[str, Any] = {
        "reason": reason.value if reason is not None else "",
        "seed": history.seed,
        "preemptions": history.preemptions,
    }
    try:
        return start_training(uow, JobKind.RENEW, facts)
    except JobRunningError:
        return None


def _preempt(uow: UnitOfWork, settings: Settings, renewal: Job) -> Job | None:
    """Interrupt the renewal and close the batch. Return None if either is not possible any more."""
    # The requests stay locked, so that the batch below has all of them.
    if not next_batch(uow, settings) or not uow.jobs.preempt(renewal.id):
        return None
    job = close_batch(uow, settings)
    if job is None:
        # The error rolls the interruption back.
        raise ConflictError("Another transaction took the batch that interrupts a renewal.")
    return job


def _read_state(uow: UnitOfWork, settings: Settings, job: Job | None) -> RenewalState:
    due_at = batch_due_at(uow, settings)
    is_running = job is not None and is_interruptible(job)
    state = RenewalState(
        now=uow.state.now().timestamp(),
        batch_due_at=_timestamp(due_at),
        running_since=job.created_at.timestamp() if job is not None and is_running else None,
    )
    oldest_completed_at, earliest_due_at = uow.renewals.debt()
    if oldest_completed_at is None:
        return state
    state = replace(
        state,
        approximate=1,
        oldest_completed_at=oldest_completed_at.timestamp(),
        earliest_due_at=_timestamp(earliest_due_at),
        waiting=uow.requests.count_waiting(),
        batch_seconds=0.0 if due_at is None else uow.renewals.batch_seconds(),
    )
    is_restored, is_restoring = uow.renewals.restored()
    live = uow.releases.alias().live
    return replace(
        state,
        is_restored=is_restored,
        is_restoring=is_restoring,
        **_of_history(uow, settings, state.now),
        **_of_release(None if live is None else uow.releases.get(live)),
    )


def _of_history(uow: UnitOfWork, settings: Settings, now: float) -> dict[str, Any]:
    """Return the facts about earlier trainings and renewals.

    A time in the future is from before the clock was set back, and delays nothing.
    """
    history = uow.renewals.history(uow.renewals.last_exact_at())
    failed_at, cancelled_at = _timestamp(history.failed_at), _timestamp(history.cancelled_at)
    facts: dict[str, Any] = {
        "training_seconds": max(uow.releases.recent_trainings(), default=None),
        "preemptions": history.preemptions,
        "cancelled_at": None if cancelled_at is None or cancelled_at > now else cancelled_at,
    }
    if failed_at is not None and failed_at <= now:
        delay = max(MIN_RETRY_SECONDS, retry_seconds(settings.retry_delay, history.failures))
        facts["retry_at"] = failed_at + delay
    return facts


def _of_release(live: Release | None) -> dict[str, Any]:
    """Return the facts about the lineage of the live release."""
    if live is None or live.training_rows is None:
        return {"has_record": False, "forgotten_share": None}
    return {"forgotten_share": live.forgotten_share, "drift": live.loss_increase}


def _timestamp(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
