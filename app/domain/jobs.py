"""A job: one run of training or unlearning, claimed under a lease and fenced by its epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.transitions import check_transition

if TYPE_CHECKING:
    from datetime import datetime


class JobKind(StrEnum):
    """What a job makes: the first release, a release without a batch, or an exact retraining."""

    TRAIN = "train"
    FORGET = "forget"
    RENEW = "renew"


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    AUDITING = "auditing"
    PUBLISHING = "publishing"
    ROLLING_OUT = "rolling_out"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


_J = JobStatus
#: A job in one of these may be claimed anew when its lease has expired.
ACTIVE_STATUSES: Final = frozenset({_J.RUNNING, _J.AUDITING, _J.PUBLISHING, _J.ROLLING_OUT})
#: At most one job per model is in one of these, whatever its kind.
OPEN_JOB_STATUSES: Final = ACTIVE_STATUSES | {_J.QUEUED}

#: `auditing → running` is an escalation; any active state may be re-entered by a later claim.
JOB_TRANSITIONS: Final = {
    _J.QUEUED: frozenset({_J.RUNNING, _J.CANCELLED, _J.FAILED, _J.DEAD}),
    _J.RUNNING: frozenset({_J.AUDITING, _J.PUBLISHING, _J.ROLLING_OUT, _J.FAILED, _J.DEAD}),
    _J.AUDITING: frozenset({_J.RUNNING, _J.PUBLISHING, _J.FAILED, _J.DEAD}),
    _J.PUBLISHING: frozenset({_J.RUNNING, _J.ROLLING_OUT, _J.FAILED, _J.DEAD}),
    _J.ROLLING_OUT: frozenset({_J.SUCCEEDED, _J.FAILED, _J.DEAD}),
}


class Stage(StrEnum):
    """The step of the pipeline that a job is in, in order."""

    WAITING = "waiting"
    SNAPSHOT = "snapshot"
    TRAIN = "train"
    UNLEARN = "unlearn"
    MERGE = "merge"
    AUDIT = "audit"
    PUBLISH = "publish"
    ROLL_OUT = "roll_out"
    DELETE_ROWS = "delete_rows"
    SHRED = "shred"
    CERTIFY = "certify"
    DONE = "done"

    @classmethod
    def _missing_(cls, value: object) -> Stage | None:
        """Return the stage that an earlier version stored under another name."""
        earlier = {"freeze": cls.SNAPSHOT, "fold": cls.MERGE}
        return earlier.get(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a job: every later write must carry this epoch."""

    job_id: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the pipeline."""

    id: str
    kind: JobKind
    status: JobStatus
    method: str
    stage: Stage = Stage.WAITING
    progress: float = 0.0
    attempts: int = 0
    epoch: int = 0
    lease_owner: str | None = None
    lease_expires_at: datetime | None = None
    parent_release: str | None = None
    release: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    snapshot_version: int | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def evolve(self, **changes: Any) -> Job:
        """Return a copy with `changes`; a change of status must be a legal one."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("job", JOB_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)
