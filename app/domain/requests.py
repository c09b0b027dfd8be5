"""Deletion requests: their subject, status and outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    #: What only the ledger knew of a request that a restored database lacked or had open; None for
    #: other requests. See `app.services.restored_entries`.
    recovered: dict[str, Any] | None = None

    def evolve(self, **changes: Any) -> ForgetRequest:
        """Return a copy with `changes`. Raises IllegalTransitionError."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("request", REQUEST_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestJob:
    """A job that took part in a request, with its audit of this request alone."""

    request_id: str
    job_id: str
    outcome: Outcome | None = None
    figures: dict[str, Any] | None = None
