"""Jobs. The table is the queue: a worker claims a job with one conditional update.

Every later write of the worker is conditional on its lease, and raises LeaseLostError if another
worker has claimed the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.errors import JobRunningError, LeaseLostError, UnknownJobError
from app.domain.jobs import (
    ACTIVE_STATUSES,
    INTERRUPTIBLE_STATUSES,
    OPEN_JOB_STATUSES,
    PAST_FLIP_STAGES,
    PREEMPTED,
    Job,
    JobKind,
    JobStatus,
    Lease,
    Stage,
)
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.repositories.job_leases import holds
from app.storage.repositories.releases import LIVE
from app.storage.tables import AliasRow, JobRow

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row, Select

_ACTIVE: Final = sorted(status.value for status in ACTIVE_STATUSES)
_OPEN: Final = sorted(status.value for status in OPEN_JOB_STATUSES)
_FINAL: Final = OPEN_JOB_STATUSES ^ frozenset(JobStatus)
_EXPIRED: Final = and_(JobRow.status.in_(_ACTIVE), JobRow.lease_expires_at < db_now())
_QUEUED: Final = and_(JobRow.status == JobStatus.QUEUED.value, JobRow.available_at <= db_now())
#: The alias points to the job's release, or the job is in a stage after the flip.
_PAST_FLIP: Final = or_(
    JobRow.stage.in_(sorted(stage.value for stage in PAST_FLIP_STAGES)),
    exists(
        select(AliasRow.name)
        .where(AliasRow.name == LIVE, AliasRow.live == JobRow.release)
        .correlate(JobRow)
    ),
)
#: Fields of the domain object that are columns of the same name and type.
_PLAIN: Final = (
    "method",
    "progress",
    "attempts",
    "epoch",
    "lease_owner",
    "lease_expires_at",
    "parent_release",
    "release",
    "settings",
    "metrics",
    "error",
    "snapshot_version",
    "created_at",
    "started_at",
    "finished_at",
)
_ENUMS: Final = ("kind", "status", "stage")
#: The fields that a worker may write. Only a claim or renewal changes the lease and the epoch.
_WRITABLE: Final = frozenset(
    {
        "status",
        "stage",
        "progress",
        "attempts",
        "method",
        "parent_release",
        "release",
        "settings",
        "metrics",
        "error",
        "snapshot_version",
    }
)


class JobRepository(Repository):
    """The jobs of all kinds, at most one of which is open."""

    def add(self, job: Job, *, delay_seconds: float = 0.0) -> None:
        """Record a queued job. Raises JobRunningError while a job of any kind is open."""
        values = {name: getattr(job, name) for name in _PLAIN}
        values |= {name: getattr(job, name).value for name in _ENUMS}
        row = insert(JobRow).values(
            id=job.id, model="default", available_at=db_now() + delay_seconds, **values
        )
        try:
            with self._connection.begin_nested():
                self._connection.execute(row)
        except IntegrityError as error:
            running = self.open_job()
            if running is None:
                raise
            raise JobRunningError(job_id=running.id) from error

    def get(self, job_id: str) -> Job:
        job = self.find(job_id)
        if job is None:
            raise UnknownJobError(job_id=job_id)
        return job

    def find(self, job_id: str) -> Job | None:
        """Return the job, or None if this database does not know it."""
        row = self._connection.execute(_jobs().where(JobRow.id == job_id)).first()
        return None if row is None else _to_domain(row)

    def open_job(self) -> Job | None:
        row = self._connection.execute(_jobs().where(JobRow.status.in_(_OPEN))).first()
        return None if row is None else _to_domain(row)

    def page(self, limit: int, cursor: str | None) -> list[Job]:
        query = _jobs().order_by(JobRow.id.desc()).limit(limit)
        if cursor is not None:
            query = query.where(JobRow.id < cursor)
        return [_to_domain(row) for row in self._connection.execute(query)]

    def claim(
        self, owner: str, lease_seconds: float, *, max_attempts: int | None = None
    ) -> tuple[Job, Lease] | None:
        """Claim a job that is queued, or active with an expired lease.

        A job that has used `max_attempts` is not claimed; the sweeper abandons such a job. After
        the flip the number of attempts does not matter.
        """
        expired = _EXPIRED
        if max_attempts is not None:
            expired = and_(_EXPIRED, or_(JobRow.attempts < max_attempts, _PAST_FLIP))
        claimable = or_(_QUEUED, expired)
        # One of several concurrent claims gets the row lock. The others skip the row, or the
        # second check of the condition in the update excludes the row.
        chosen_id = (
            select(JobRow.id)
            .where(claimable)
            .order_by(JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        rolling_out = JobStatus.ROLLING_OUT.value
        row = self._connection.execute(
            update(JobRow)
            .where(JobRow.id == chosen_id, claimable)
            .values(
                lease_owner=owner,
                lease_expires_at=db_now() + lease_seconds,
                attempts=JobRow.attempts + 1,
                epoch=JobRow.epoch + 1,
                started_at=func.coalesce(JobRow.started_at, db_now()),
                # A rollout continues after a new claim; every other job restarts.
                status=case(
                    (JobRow.status == rolling_out, rolling_out), else_=JobStatus.RUNNING.value
                ),
            )
            .returning(*JobRow.__table__.columns)
        ).first()
        if row is None:
            return None
        job = _to_domain(row)
        return job, Lease(job_id=job.id, epoch=job.epoch, owner=owner)

    def renew(self, lease: Lease, lease_seconds: float) -> None:
        self._write(lease, lease_expires_at=db_now() + lease_seconds)

    def update(self, lease: Lease, **changes: Any) -> None:
        """Write fields of the job. Raises LeaseLostError or IllegalTransitionError."""
        unknown = changes.keys() - _WRITABLE
        if unknown:
            raise TypeError(f"workers cannot write the job fields {sorted(unknown)}")
        values = {
            name: value.value if isinstance(value, JobStatus | Stage) else value
            for name, value in changes.items()
        }
        if changes.get("status") in _FINAL:
            values["finished_at"] = db_now()
        if changes.get("status") is JobStatus.SUCCEEDED:
            values["error"] = None  # The metric `retries` keeps the errors of earlier tries.
        # This write locks the row, so the status cannot change before the check below.
        self._write(lease, epoch=lease.epoch)
        self.get(lease.job_id).evolve(**changes)  # Raises IllegalTransitionError.
        if values:
            self._write(lease, **values)

    def abandon(self, job_id: str, error: str) -> bool:
        """Set a job with an expired lease to dead.

        Return False if the job has a valid lease or is past the flip.
        """
        return self._end(job_id, JobStatus.DEAD, error, _EXPIRED)

    def cancel(self, job_id: str, error: str) -> bool:
        """Set an open job to cancelled. Return False if the job has ended or is past the flip."""
        return self._end(job_id, JobStatus.CANCELLED, error, JobRow.status.in_(_OPEN))

    def preempt(self, job_id: str) -> bool:
        """Set a renewal without a release to cancelled, because deletions go first.

        Return False if the renewal has ended or has a release.
        """
        statuses = sorted(status.value for status in INTERRUPTIBLE_STATUSES)
        is_interruptible = and_(
            JobRow.kind == JobKind.RENEW.value,
            JobRow.status.in_(statuses),
            JobRow.release.is_(None),
        )
        if not self._end(job_id, JobStatus.CANCELLED, PREEMPTED, is_interruptible):
            return False
        metrics = {**self.get(job_id).metrics, "preempted": True}
        self._connection.execute(update(JobRow).where(JobRow.id == job_id).values(metrics=metrics))
        return True

    def _end(
        self, job_id: str, status: JobStatus, error: str, condition: ColumnElement[bool]
    ) -> bool:
        # A flip locks the job first. Only a statement after the lock sees the flip's alias.
        self._connection.execute(select(JobRow.id).where(JobRow.id == job_id).with_for_update())
        changed = self._changed(
            update(JobRow)
            .where(JobRow.id == job_id, condition, ~_PAST_FLIP)
            .values(status=status.value, error=error, finished_at=db_now())
        )
        return changed == 1

    def is_past_flip(self, job_id: str) -> bool:
        """Return whether the job's release is live, or the job is in a stage after the flip."""
        query = select(JobRow.id).where(JobRow.id == job_id, _PAST_FLIP)
        return self._connection.execute(query).first() is not None

    def batches_since(self, time: datetime) -> list[Job]:
        """Return the forget jobs that were created at this time or later."""
        query = _jobs().where(JobRow.kind == JobKind.FORGET.value, JobRow.created_at >= time)
        return [_to_domain(row) for row in self._connection.execute(query.order_by(JobRow.id))]

    def last_rollout_seconds(self, kinds: Collection[JobKind]) -> float | None:
        """Return the seconds of the rollout of the newest job of these kinds that has one."""
        query = (
            select(JobRow.metrics)
            .where(JobRow.kind.in_([kind.value for kind in kinds]))
            .where(JobRow.status == JobStatus.SUCCEEDED.value, JobRow.release.is_not(None))
            .order_by(JobRow.created_at.desc(), JobRow.id.desc())
            .limit(1)
        )
        metrics = self._connection.execute(query).scalar_one_or_none() or {}
        seconds = metrics.get("stage_seconds", {}).get(Stage.ROLL_OUT.value)
        return None if seconds is None else float(seconds)

    def expired(self) -> list[Job]:
        """Return the active jobs whose lease has expired."""
        query = _jobs().where(_EXPIRED).order_by(JobRow.id)
        return [_to_domain(row) for row in self._connection.execute(query)]

    def claimable(self) -> list[str]:
        """Return the ids of queued jobs that a worker may claim now."""
        query = select(JobRow.id).where(_QUEUED).order_by(JobRow.id)
        return list(self._connection.execute(query).scalars())

    def _write(self, lease: Lease, **values: Any) -> None:
        update_leased = update(JobRow).where(*holds(lease), JobRow.status.in_(_ACTIVE))
        if self._changed(update_leased.values(**values)) == 0:
            raise LeaseLostError(job_id=lease.job_id, epoch=lease.epoch)


def _jobs() -> Select[Any]:
    return select(JobRow.__table__)


def _to_domain(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        status=JobStatus(row.status),
        stage=Stage(row.stage),
        available_at=row.available_at,
        **{name: getattr(row, name) for name in _PLAIN},
    )
