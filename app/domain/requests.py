"""Deletion requests: their subject, status and outcome."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.transitions import check_transition

if TYPE_CHECKING:
    from datetime import datetime


class Scope(StrEnum):
    """The kind of subject: a user, interactions of a user, or an item."""

    USER = "user"
    USER_ITEMS = "user_items"
    ITEM = "item"


class RequestStatus(StrEnum):
    """The status of a request."""

    SCHEDULED = "scheduled"
    BATCHED = "batched"
    UNLEARNING = "unlearning"
    AUDITING = "auditing"
    ROLLING_OUT = "rolling_out"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    ON_HOLD = "on_hold"
    DEAD = "dead"


_R = RequestStatus
#: The statuses of a request that is part of a batch or job.
IN_JOB_STATUSES: Final = frozenset({_R.BATCHED, _R.UNLEARNING, _R.AUDITING, _R.ROLLING_OUT})

#: Old status → allowed new statuses. A failed job returns its requests to `batched`, and never to
#: `scheduled`, which can be cancelled.
REQUEST_TRANSITIONS: Final = {
    _R.SCHEDULED: frozenset({_R.BATCHED, _R.CANCELLED, _R.ON_HOLD}),
    _R.ON_HOLD: frozenset({_R.SCHEDULED}),
    _R.BATCHED: frozenset({_R.BATCHED, _R.UNLEARNING, _R.COMPLETED, _R.DEAD}),
    _R.UNLEARNING: frozenset({_R.UNLEARNING, _R.AUDITING, _R.BATCHED, _R.DEAD}),
    _R.AUDITING: frozenset({_R.UNLEARNING, _R.ROLLING_OUT, _R.BATCHED, _R.DEAD}),
    _R.ROLLING_OUT: frozenset({_R.COMPLETED, _R.BATCHED, _R.DEAD}),
    _R.DEAD: frozenset({_R.BATCHED}),
}

OPEN_STATUSES: Final = IN_JOB_STATUSES | {_R.SCHEDULED, _R.ON_HOLD, _R.DEAD}


class RequestReason(StrEnum):
    """Why a deletion is requested."""

    USER_REQUEST = "user_request"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    LEGAL = "legal"
    OTHER = "other"


class Outcome(StrEnum):
    """The audit result of the release in which a request was completed."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not_applicable"
    #: The release was retrained without the data, so it is not compared with the old release.
    EXACT = "exact"


class Assurance(StrEnum):
    """What is proved about the weights: nothing yet, approximate unlearning, or exact training."""

    NONE = "none"
    APPROXIMATE = "approximate"
    EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The plain ids to delete. Deleting the rows or cancelling clears the ids in the request."""

    scope: Scope
    user_id: str | None = None
    item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Who requested a deletion on the person's behalf, why, and under which ticket.

    The texts are the caller's, contain no personal data, and are kept after completion.
    """

    requested_by: str | None = None
    reason: RequestReason = RequestReason.USER_REQUEST
    reference: str | None = None


UNATTRIBUTED: Final = Attribution()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequest:
    """A deletion request. `subject` is None once the rows are deleted, and `subject_hashes` stay.

    `subject_hashes` are the keyed hashes of the user, of each (user, item) pair, or of the item.
    """

    id: str
    scope: Scope
    subject: Subject | None
    subject_hashes: tuple[str, ...]
    status: RequestStatus
    created_at: datetime
    due_at: datetime
    cancellable_until: datetime
    job_id: str | None = None
    failures: int = 0
    progress: float = 0.0
    outcome: Outcome | None = None
    release: str | None = None
    completed_at: datetime | None = None
    #: Table → number of deleted rows; None until the rows are deleted.
    rows_deleted: dict[str, Any] | None = None
    #: Requests with the same value are retried in one job.
    retry_group: str | None = None
    #: The signature of the last failure, and the time of the first failure with this signature.
    last_failure: str | None = None
    failed_at: datetime | None = None
    #: The earliest time of the next job.
    retry_at: datetime | None = None
    assurance: Assurance = Assurance.NONE
    #: The promised time at which a release that never saw the erased rows serves.
    exact_due_at: datetime | None = None
    exact_at: datetime | None = None
    exact_job_id: str | None = None
    #: Whether the deletion, or its exact training, is repeated after a restore from a backup.
    restored: bool = False
    requested_by: str | None = None
    reason: RequestReason = RequestReason.USER_REQUEST
    reference: str | None = None
    #: The keyed hash of the user whose data the request is about. None: an item, or not recorded.
    user_hash: str | None = None
    #: What only the ledger knew of a request that a restored database lacked or had open, see
    #: `app.services.restored_entries`; empty for a user who was suppressed without stored data;
    #: None for other requests.
    recovered: dict[str, Any] | None = None

    def evolve(self, **changes: Any) -> ForgetRequest:
        """Return a copy with `changes`. Raises IllegalTransitionError."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("request", REQUEST_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyEntry:
    """What is stored for an idempotency key: keyed hashes of the body, and the request."""

    #: Of the subject; empty after completion.
    body_hash: str
    #: Of the other fields. None: the entry is from before this field.
    options_hash: str | None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressedBy:
    """The requests for one hash: the oldest that suppresses it, and the newest completed one."""

    active: str | None = None
    completed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Conditions that a listed request meets; a condition that is None is met by every request."""

    #: Any of these statuses; empty: every status.
    statuses: frozenset[RequestStatus] = frozenset()
    assurance: Assurance | None = None
    #: Whether the time by which the request should be completed, or exact, has passed.
    overdue: bool | None = None
    #: That time is earlier than this, and the request is not completed, or not exact.
    due_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    #: The keyed hashes of the user, in each spelling, and the user's normal id, which finds open
    #: requests that an earlier version recorded without a hash.
    user_hashes: tuple[str, ...] | None = None
    user_id: str | None = field(default=None, repr=False)
    requested_by: str | None = None
    reference: str | None = None
    #: Whether deletions are promised to become exact; if not, only the completion can be due.
    exact_is_due: bool = True


#: The filter that every request matches.
EVERY_REQUEST: Final = RequestFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestJob:
    """A job that took part in a request, with its audit of this request alone."""

    request_id: str
    job_id: str
    outcome: Outcome | None = None
    figures: dict[str, Any] | None = None
