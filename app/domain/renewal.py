"""Decide when a renewal starts. Pure functions of the state, which the simulation calls too.

A renewal trains from scratch on the retained rows, so that every approximate deletion becomes
exact. All times are in seconds by one clock, that of the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExactMode(StrEnum):
    """When renewals run: as soon as possible, in time for the deadline, or never."""

    SOON = "soon"
    DEADLINE = "deadline"
    OFF = "off"


class RenewalReason(StrEnum):
    """Why a renewal starts."""

    #: The live release has no record of its training.
    NO_RECORD = "no-record"
    #: A restored backup undid an exact training.
    RESTORED = "restored"
    #: An earlier deadline has passed, or the time left is shorter than the training.
    LATE = "late"
    DEADLINE = "deadline"
    #: Too many training rows are gone, or the measured loss has drifted.
    DRIFT = "drift"
    #: No deletion waits.
    IDLE = "idle"
    #: The oldest approximate deletion is four training times old.
    AGE = "age"


#: A renewal starts at least this many training times before the earliest deadline.
SAFETY_FACTOR: Final = 2.0
#: With `soon`, the oldest approximate deletion waits at most this many training times.
AGE_FACTOR: Final = 4.0
#: The number of times that queued deletions may interrupt renewals in a row.
MAX_PREEMPTIONS: Final = 2
#: After an operator's cancel, no renewal starts for this many training times, and for this many
#: seconds at least, unless the deadline would then be missed.
CANCEL_FACTOR: Final = 4.0
MIN_CANCEL_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """The settings of renewals."""

    #: None: `soon` if the last training took at most `soon_seconds`, else `deadline`.
    mode: ExactMode | None = None
    soon_seconds: float = 600.0
    #: Share of the training rows that fast unlearning may remove.
    drift_rows: float = 0.1
    #: Relative increase of the mean loss that fast unlearning may cause.
    drift_loss: float = 0.05
    #: Time before the latest start at which a renewal starts for its deadline, for outages, failed
    #: renewals, urgent batches, and many certificates.
    margin_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalState:
    """The facts of a decision."""

    now: float
    #: Number of completed deletions that are approximate, and the earliest completion of one.
    approximate: int = 0
    oldest_completed_at: float | None = None
    #: The earliest `exact_due_at` of the approximate deletions. An open deletion does not count: a
    #: renewal cannot make it exact, and a deletion that fails for weeks would cause renewal after
    #: renewal.
    earliest_due_at: float | None = None
    #: Measured seconds of an exact training with its rollout; None: never measured.
    training_seconds: float | None = None
    #: Number of deletions that wait for a batch, held ones excluded.
    waiting: int = 0
    #: The time since which a batch of deletions is due; None: no batch is due.
    batch_due_at: float | None = None
    #: Expected duration of such a batch, in seconds.
    batch_seconds: float = 0.0
    #: The start of the renewal that runs and can still be interrupted; None: none runs.
    running_since: float | None = None
    #: Share of the last exact training's rows that are gone; None: not recorded.
    forgotten_share: float | None = 0.0
    #: Relative increase of the mean loss since the last exact training.
    drift: float = 0.0
    has_record: bool = True
    is_restored: bool = False
    #: Renewals that deletions have interrupted since the last exact training.
    preemptions: int = 0
    #: The earliest time of the next try after a failed renewal.
    retry_at: float | None = None
    #: The time at which an operator cancelled the latest renewal; None: not cancelled.
    cancelled_at: float | None = None
    #: Whether deletions are repeated after a restore. No renewal starts before their completion.
    is_restoring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPlan:
    """When the next renewal starts, and why. `start_at` is None if none is planned."""

    start_at: float | None = None
    reason: RenewalReason | None = None
    #: Whether the renewal cannot end before the earliest deadline.
    is_late: bool = False

    def is_due(self, now: float) -> bool:
        return self.start_at is not None and self.start_at <= now


class Action(StrEnum):
    """What the scheduler does now."""

    WAIT = "wait"
    CLOSE_BATCH = "close-batch"
    START_RENEWAL = "start-renewal"
    #: Cancel the renewal that runs, and close the batch that is due.
    PREEMPT = "preempt"


def is_budget_spent(policy: RenewalPolicy, forgotten_share: float | None, drift: float) -> bool:
    """Return whether a lineage has drifted too far from its exact training.

    `forgotten_share` and `drift` are as in `RenewalState`; a share that was not recorded counts as
    too large.
    """
    if forgotten_share is None:
        return True
    return forgotten_share > policy.drift_rows or drift > policy.drift_loss


def effective_mode(policy: RenewalPolicy, training_seconds: float | None) -> ExactMode:
    """Return the mode that applies to a training of this duration."""
    if policy.mode is not None:
        return policy.mode
    is_short = training_seconds is None or training_seconds <= policy.soon_seconds
    return ExactMode.SOON if is_short else ExactMode.DEADLINE


def plan(state: RenewalState, policy: RenewalPolicy) -> RenewalPlan:
    """Return the plan for the next renewal: the earliest of all reasons to renew."""
    mode = effective_mode(policy, state.training_seconds)
    if mode is ExactMode.OFF or state.approximate == 0:
        return RenewalPlan()
    starts = list(_starts(state, policy, mode))
    if not starts:
        return RenewalPlan()
    start_at, reason = min(starts, key=lambda start: start[0])
    start_at = max(start_at, *_delays(state))
    end_at = max(start_at, state.now) + (state.training_seconds or 0.0)
    is_late = state.earliest_due_at is not None and end_at > state.earliest_due_at
    return RenewalPlan(start_at=start_at, reason=reason, is_late=is_late)


def may_preempt(state: RenewalState) -> bool:
    """Return whether the due batch may interrupt the renewal that runs.

    A batch that was due before the renewal started waits: the renewal had a reason to go first.
    """
    if state.running_since is None or state.batch_due_at is None:
        return False
    if state.is_restoring:
        return True  # The batch has the deletions that are repeated.
    if state.batch_due_at <= state.running_since or state.is_restored:
        return False
    if state.preemptions >= MAX_PREEMPTIONS:
        return False
    if state.earliest_due_at is None:
        return True
    needed = state.batch_seconds + SAFETY_FACTOR * (state.training_seconds or 0.0)
    return state.now + needed <= state.earliest_due_at


def decide(state: RenewalState, policy: RenewalPolicy) -> Action:
    """Return what to do now, if no other job is open than the renewal in `state`."""
    if state.running_since is not None:
        return Action.PREEMPT if may_preempt(state) else Action.WAIT
    if not state.is_restoring and plan(state, policy).is_due(state.now):
        return Action.START_RENEWAL
    return Action.WAIT if state.batch_due_at is None else Action.CLOSE_BATCH


def _starts(
    state: RenewalState, policy: RenewalPolicy, mode: ExactMode
) -> Iterator[tuple[float, RenewalReason]]:
    """Yield (time, reason) for each reason to renew."""
    seconds = state.training_seconds or 0.0
    if state.is_restored:
        yield state.now, RenewalReason.RESTORED
    if not state.has_record or state.training_seconds is None:
        yield state.now, RenewalReason.NO_RECORD
    due_at = state.earliest_due_at
    if due_at is not None:
        is_late = state.now + seconds > due_at
        reason = RenewalReason.LATE if is_late else RenewalReason.DEADLINE
        # A batch that is due goes first only if the renewal can still start in time after it.
        batch_seconds = state.batch_seconds if state.batch_due_at is not None else 0.0
        lead_seconds = SAFETY_FACTOR * seconds + policy.margin_seconds + batch_seconds
        yield due_at - lead_seconds, reason
    if is_budget_spent(policy, state.forgotten_share, state.drift):
        yield state.now, RenewalReason.DRIFT
    if mode is ExactMode.SOON and state.waiting == 0:
        yield state.now, RenewalReason.IDLE
    elif mode is ExactMode.SOON and state.oldest_completed_at is not None:
        yield state.oldest_completed_at + AGE_FACTOR * seconds, RenewalReason.AGE


def _delays(state: RenewalState) -> Iterator[float]:
    """Yield the times before which no renewal starts, whatever the reason."""
    yield float("-inf")
    if state.retry_at is not None:
        yield state.retry_at
    if state.cancelled_at is not None:
        seconds = state.training_seconds or 0.0
        until = state.cancelled_at + max(CANCEL_FACTOR * seconds, MIN_CANCEL_SECONDS)
        due_at = state.earliest_due_at
        # The last start with which the renewal meets the deadline.
        yield until if due_at is None else min(until, due_at - seconds)
