"""One claim of one job: its lease, its stage, its progress, and the only way to write for it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from app.domain.errors import LeaseLostError
from app.domain.jobs import JobStatus, Stage
from app.services import jobs as job_lifecycle
from worker.errors import WorkerStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from threading import Event

    from app.domain.jobs import Job, Lease
    from app.storage.unit_of_work import UnitOfWork
    from worker.context import WorkerContext
    from worker.heartbeat import LeaseHeartbeat
    from worker.learner import Report

log = structlog.get_logger(__name__)

#: Progress inside a stage is written at most this often, in seconds.
REPORT_INTERVAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Plan:
    """The job's status in a stage, and the stage's span of the whole progress."""

    status: JobStatus
    start: float
    end: float


_PLANS: Final = {
    Stage.SNAPSHOT: _Plan(JobStatus.RUNNING, 0.0, 0.02),
    Stage.TRAIN: _Plan(JobStatus.RUNNING, 0.02, 0.65),
    Stage.UNLEARN: _Plan(JobStatus.RUNNING, 0.02, 0.6),
    Stage.MERGE: _Plan(JobStatus.RUNNING, 0.6, 0.65),
    Stage.AUDIT: _Plan(JobStatus.AUDITING, 0.65, 0.8),
    Stage.PUBLISH: _Plan(JobStatus.PUBLISHING, 0.8, 0.82),
    Stage.ROLL_OUT: _Plan(JobStatus.ROLLING_OUT, 0.82, 0.94),
    Stage.DELETE_ROWS: _Plan(JobStatus.ROLLING_OUT, 0.94, 0.96),
    Stage.SHRED: _Plan(JobStatus.ROLLING_OUT, 0.96, 0.98),
    Stage.CERTIFY: _Plan(JobStatus.ROLLING_OUT, 0.98, 1.0),
}


class JobRun:
    """What the stages share: where the job stands, and writing under its lease."""

    def __init__(
        self,
        context: WorkerContext,
        job: Job,
        lease: Lease,
        heartbeat: LeaseHeartbeat,
        *,
        stop: Event,
        on_stage: Callable[[Stage], None],
    ) -> None:
        self.context = context
        self.job = job
        self.lease = lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._on_stage = on_stage
        self._begun: tuple[Stage, float] | None = None

    @property
    def staging(self) -> Path:
        """This claim's own directory; no other claim ever writes there."""
        return self.context.artifacts.staging(self.lease.job_id, self.lease.epoch)

    def check(self) -> None:
        """Raise where this worker must not go on: the lease is lost, or it was asked to stop."""
        self._heartbeat.check()
        if self._stop.is_set():
            raise WorkerStoppedError

    def has_lost_lease(self) -> bool:
        try:
            self._heartbeat.check()
        except LeaseLostError:
            return True
        return False

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until a stop; then check."""
        self._stop.wait(seconds)
        self.check()

    @contextmanager
    def writing(self) -> Iterator[UnitOfWork]:
        """Open a transaction. What is done in it must carry the lease."""
        self.check()
        with self.context.uow_factory() as uow:
            yield uow

    def begin(self, stage: Stage) -> None:
        """Record that a stage begins, with the job's requests, then tell the hook."""
        plan = _PLANS[stage]
        progress = max(self.job.progress, plan.start)
        seconds = {"stage_seconds": self._stage_seconds(stage)}
        self.advance(stage=stage, status=plan.status, progress=progress, metrics=seconds)
        log.info("stage", job=self.job.id, epoch=self.lease.epoch, stage=stage.value)
        self._on_stage(stage)

    def _stage_seconds(self, following: Stage) -> dict[str, float]:
        """Return how long this claim and those before it were in each stage that is over."""
        now = time.monotonic()
        spent: dict[str, float] = dict(self.job.metrics.get("stage_seconds", {}))
        if self._begun is not None:
            stage, began = self._begun
            spent[stage.value] = spent.get(stage.value, 0.0) + now - began
        self._begun = following, now
        return spent

    def advance(self, **changes: Any) -> None:
        """Write changes of the job; `metrics` are added to those that it has."""
        with self.writing() as uow:
            job_lifecycle.advance(uow, self.lease, **changes)
        if "metrics" in changes:
            changes["metrics"] = {**self.job.metrics, **changes["metrics"]}
        self.job = self.job.evolve(**changes)

    def reporter(self, stage: Stage) -> Report:
        """Return the callback for a stage's own progress; it raises where the work must end."""
        plan = _PLANS[stage]
        written_at = time.monotonic()

        def report(fraction: float) -> None:
            nonlocal written_at
            self.check()
            now = time.monotonic()
            if now - written_at >= REPORT_INTERVAL:
                written_at = now
                inside = plan.start + (plan.end - plan.start) * min(max(fraction, 0.0), 1.0)
                # After an escalation the bar waits rather than going back.
                self.advance(progress=max(self.job.progress, inside))

        return report
