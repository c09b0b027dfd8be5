"""Jobs: one job is one run of training or unlearning by a worker that holds the lease."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.transitions import check_transition

if TYPE_CHECKING:
    from datetime import datetime


class JobKind(StrEnum):
    """`train`: train from the data; `forget`: unlearn a batch; `renew`: retrain exactly."""

    TRAIN = "train"
    FORGET = "forget"
    RENEW = "renew"


class JobStatus(StrEnum):
    """The status of a job."""

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
#: A job with one of these statuses can be claimed again when its lease has expired.
ACTIVE_STATUSES: Final = frozenset({_J.RUNNING, _J.AUDITING, _J.PUBLISHING, _J.ROLLING_OUT})
#: At most one job per model has one of these statuses.
OPEN_JOB_STATUSES: Final = ACTIVE_STATUSES | {_J.QUEUED}
#: Deletions may interrupt a renewal with one of these statuses and without a release.
INTERRUPTIBLE_STATUSES: Final = frozenset({_J.QUEUED, _J.RUNNING, _J.AUDITING})
#: The error of an interrupted renewal.
PREEMPTED: Final = "preempted by a batch of deletions"
#: The errors of trainings that an operator cancelled, and that a restore interrupted.
CANCELLED_BY_OPERATOR: Final = "cancelled"
CANCELLED_BY_RESTORE: Final = "cancelled, because a backup was restored"

_UNSUCCESSFUL: Final = frozenset({_J.CANCELLED, _J.FAILED, _J.DEAD})
#: Old status → allowed new statuses. `auditing → running` is an escalation. A new claim resets an
#: active job to `running`, except in `rolling_out`. After the flip a job can only succeed, which
#: `app.services.jobs` checks, because the status `rolling_out` begins before the flip.
JOB_TRANSITIONS: Final = {
    _J.QUEUED: frozenset({_J.RUNNING}) | _UNSUCCESSFUL,
    _J.RUNNING: frozenset({_J.AUDITING, _J.PUBLISHING, _J.ROLLING_OUT}) | _UNSUCCESSFUL,
    _J.AUDITING: frozenset({_J.RUNNING, _J.PUBLISHING}) | _UNSUCCESSFUL,
    _J.PUBLISHING: frozenset({_J.RUNNING, _J.ROLLING_OUT}) | _UNSUCCESSFUL,
    _J.ROLLING_OUT: frozenset({_J.SUCCEEDED}) | _UNSUCCESSFUL,
}


class Stage(StrEnum):
    """The stages of the pipeline, in order."""

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
        """Return the stage for a name that earlier versions stored."""
        earlier = {"freeze": cls.SNAPSHOT, "fold": cls.MERGE}
        return earlier.get(value) if isinstance(value, str) else None


#: In these stages a job is past the flip, also if the job has no release.
PAST_FLIP_STAGES: Final = frozenset({Stage.DELETE_ROWS, Stage.SHRED, Stage.CERTIFY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error that interrupted a job. No field contains personal data."""

    #: Stage, error and, for an error of the file system, reason and path.
    text: str
    #: Stage, class and code of the error: equal for two failures of the same kind.
    signature: str
    #: Whether the cause is the environment, such as a full disk, and not the job's requests.
    is_environmental: bool = False
    #: Whether the error is expected to end by itself, such as a database that is away.
    is_transient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a job. Every write of the worker is checked against the epoch."""

    job_id: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaim:
    """A claim of a job by a worker. `machine` names the disk that has the claim's files."""

    job_id: str
    epoch: int
    machine: str
    started_at: datetime
    #: When the machine had no file and no process of the claim any more.
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalHistory:
    """The scheduled renewals since the last exact training."""

    preemptions: int = 0
    failures: int = 0
    #: The end and the error of the latest renewal that failed.
    failed_at: datetime | None = None
    error: str | None = None
    #: The end of the latest renewal, if an operator cancelled it.
    cancelled_at: datetime | None = None
    #: The number that is added to LETHE_SEED for the next renewal.
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job. `settings` and `metrics` are JSON objects."""

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
    #: The earliest time of the first claim. The database sets the value.
    available_at: datetime | None = None

    @property
    def renewal_reason(self) -> str | None:
        """Return why the scheduler started the renewal; None for a job of another origin."""
        reason: str | None = self.settings.get("reason") if self.kind is JobKind.RENEW else None
        return reason

    @property
    def failed_tries(self) -> int:
        """Return the number of tries that ended with an error and did not end the job."""
        retries: dict[str, dict[str, Any]] = self.metrics.get("retries", {})
        return sum(retry["count"] for retry in retries.values())

    def has_passed(self, stage: Stage) -> bool:
        """Return whether the job finished the stage, by the durations of its stages."""
        if stage is Stage.WAITING:
            return self.stage is not Stage.WAITING
        has_ended_there = self.stage is stage and self.status is not _J.SUCCEEDED
        return stage.value in self.metrics.get("stage_seconds", {}) and not has_ended_there

    def evolve(self, **changes: Any) -> Job:
        """Return a copy with `changes`. Raises IllegalTransitionError."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("job", JOB_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)
