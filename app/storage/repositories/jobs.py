"""Jobs: the queue is this table. The claim is one conditional update; so is every later write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.errors import JobRunningError, LeaseLostError, UnknownJobError
from app.domain.jobs import (
    ACTIVE_STATUSES,
    OPEN_JOB_STATUSES,
    Job,
    JobKind,
    JobStatus,
    Lease,
    Stage,
)
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.repositories.leases import holds
from app.storage.tables import JobRow

if TYPE_CHECKING:
    from sqlalchemy import Row, Select

_ACTIVE: Final = sorted(status.value for status in ACTIVE_STATUSES)
_OPEN: Final = sorted(status.value for status in OPEN_JOB_STATUSES)
_ENDS: Final = OPEN_JOB_STATUSES ^ frozenset(JobStatus)
_EXPIRED: Final = and_(JobRow.status.in_(_ACTIVE), JobRow.lease_expires_at < db_now())
_QUEUED: Final = and_(JobRow.status == JobStatus.QUEUED.value, JobRow.available_at <= db_now())
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
#: What a worker may write. Lease, epoch and attempts change by claiming and renewing only.
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
    """Implements `ports.JobRepository`."""

    def add(self, job: Job, *, delay_seconds: float = 0.0) -> None:
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
        row = self._connection.execute(_jobs().where(JobRow.id == job_id)).first()
        if row is None:
            raise UnknownJobError(job_id=job_id)
        return _to_domain(row)

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
        expired = (
            _EXPIRED if max_attempts is None else and_(_EXPIRED, JobRow.attempts < max_attempts)
        )
        free = or_(_QUEUED, expired)
        # Only one of several claims gets the row's lock; the others find nothing, or find that
        # the condition, which is checked once more on the row itself, no longer holds.
        chosen = (
            select(JobRow.id)
            .where(free)
            .order_by(JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        rolling_out = JobStatus.ROLLING_OUT.value
        row = self._connection.execute(
            update(JobRow)
            .where(JobRow.id == chosen, free)
            .values(
                lease_owner=owner,
                lease_expires_at=db_now() + lease_seconds,
                attempts=JobRow.attempts + 1,
                epoch=JobRow.epoch + 1,
                started_at=func.coalesce(JobRow.started_at, db_now()),
                # What has begun to roll out goes on rolling out; all else starts over.
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
        unknown = changes.keys() - _WRITABLE
        if unknown:
            raise TypeError(f"a worker does not write {sorted(unknown)} of a job")
        values = {
            name: value.value if isinstance(value, JobStatus | Stage) else value
            for name, value in changes.items()
        }
        if changes.get("status") in _ENDS:
            values["finished_at"] = db_now()
        # The fence locks the row, so the status that a step starts from cannot change meanwhile.
        self._write(lease, epoch=lease.epoch)
        self.get(lease.job_id).evolve(**changes)  # Raises where the step is not a legal one.
        if values:
            self._write(lease, **values)

    def abandon(self, job_id: str, error: str) -> bool:
        changed = self._changed(
            update(JobRow)
            .where(JobRow.id == job_id, _EXPIRED)
            .values(status=JobStatus.DEAD.value, error=error, finished_at=db_now())
        )
        return changed == 1

    def expired(self) -> list[Job]:
        query = _jobs().where(_EXPIRED).order_by(JobRow.id)
        return [_to_domain(row) for row in self._connection.execute(query)]

    def claimable(self) -> list[str]:
        query = select(JobRow.id).where(_QUEUED).order_by(JobRow.id)
        return list(self._connection.execute(query).scalars())

    def _write(self, lease: Lease, **values: Any) -> None:
        mine = update(JobRow).where(*holds(lease), JobRow.status.in_(_ACTIVE))
        if self._changed(mine.values(**values)) == 0:
            raise LeaseLostError(job_id=lease.job_id, epoch=lease.epoch)


def _jobs() -> Select[Any]:
    return select(JobRow.__table__)


def _to_domain(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        status=JobStatus(row.status),
        stage=Stage(row.stage),
        **{name: getattr(row, name) for name in _PLAIN},
    )
