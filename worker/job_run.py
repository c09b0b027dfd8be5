"""Hold the state of one claim of one job, and write the job's stage and progress under its lease.

Every pipeline stage gets a `JobRun`. `worker/pipeline.py` holds the table of `StagePlan` rows.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from app.domain.errors import LeaseLostError
from app.services import jobs as job_lifecycle
from worker.errors import WorkerStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from threading import Event

    from app.domain.jobs import Job, JobStatus, Lease, Stage
    from app.storage.unit_of_work import UnitOfWork
    from models.runtime.progress import Progress
    from worker.context import WorkerContext
    from worker.heartbeat import LeaseHeartbeat

log = structlog.get_logger(__name__)

#: Minimum time between two progress writes within a stage, in seconds.
_REPORT_INTERVAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A row of the pipeline's stage table."""

    stage: Stage
    #: The job's status in this stage.
    status: JobStatus
    #: The stage's span of the job's progress, within 0 to 1.
    start: float
    end: float
    #: Carries out the stage, or returns at once where the stage does not apply to the job. None:
    #: the function of an earlier row begins this stage.
    run: Callable[[JobRun], None] | None = None
    #: Whether a later claim continues at this stage. Otherwise that claim starts over.
    resumable: bool = False


class JobRun:
    """The job, its lease and its staging directory, as one claim's stages share them."""

    def __init__(
        self,
        context: WorkerContext,
        job: Job,
        lease: Lease,
        heartbeat: LeaseHeartbeat,
        *,
        stages: Sequence[StagePlan],
        stop: Event,
        on_stage: Callable[[Stage], None],
    ) -> None:
        self.context = context
        self.job = job
        self.lease = lease
        self._heartbeat = heartbeat
        self._plans = {plan.stage: plan for plan in stages}
        self._stop = stop
        self._on_stage = on_stage
        self._current: tuple[Stage, float] | None = None
        self._claim_seconds: dict[Stage, float] = {}
        self._reading = ExitStack()
        self._directories: dict[str, Path] = {}

    @property
    def staging(self) -> Path:
        """The staging directory of this claim; no other claim writes there."""
        return self.context.artifacts.staging(self.lease.job_id, self.lease.epoch)

    def read(self, relative: str) -> Path:
        """Return a local directory with the artifact, which stays until `stop_reading`.

        Raises FileNotFoundError if the artifact does not exist.
        """
        if relative not in self._directories:
            reading = self.context.artifacts.reading(relative)
            self._directories[relative] = self._reading.enter_context(reading)
        return self._directories[relative]

    def stop_reading(self) -> None:
        """Let other processes unlink local copies of the artifacts that this claim has read."""
        self._directories.clear()
        self._reading.close()

    def check(self) -> None:
        """Raise LeaseLostError if the lease is lost, WorkerStoppedError if a stop is requested."""
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
        """Wait for the given time or until a stop is requested, then call `check`."""
        self._stop.wait(seconds)
        self.check()

    @contextmanager
    def writing(self) -> Iterator[UnitOfWork]:
        """Open a write transaction after `check`. Every write in it must carry the lease."""
        self.check()
        with self.context.uow_factory() as uow:
            yield uow

    def begin(self, stage: Stage) -> None:
        """Write the stage, its status and its initial progress, then call the `on_stage` hook."""
        plan = self._plans[stage]
        changes: dict[str, Any] = {"error": None} if self._is_after_error(stage) else {}
        self.advance(
            stage=stage,
            status=plan.status,
            progress=max(self.job.progress, plan.start),
            metrics={"stage_seconds": self._stage_seconds(stage)},
            **changes,
        )
        log.info("stage", job=self.job.id, epoch=self.lease.epoch, stage=stage.value)
        self._on_stage(stage)

    def _is_after_error(self, next_stage: Stage) -> bool:
        """Return whether the job has passed the stage in which its last try failed."""
        failed_stage = (self.job.error or "").partition(":")[0]
        order = [stage.value for stage in self._plans]
        return failed_stage in order and order.index(next_stage.value) > order.index(failed_stage)

    def _stage_seconds(self, next_stage: Stage) -> dict[str, float]:
        """Return the seconds that all claims so far spent in each finished stage."""
        now = time.monotonic()
        seconds: dict[str, float] = dict(self.job.metrics.get("stage_seconds", {}))
        if self._current is not None:
            stage, started_at = self._current
            elapsed = now - started_at
            seconds[stage.value] = seconds.get(stage.value, 0.0) + elapsed
            self._claim_seconds[stage] = self._claim_seconds.get(stage, 0.0) + elapsed
        self._current = next_stage, now
        return seconds

    def claim_seconds(self, stage: Stage) -> float:
        """Return the seconds that this claim has spent in a stage so far."""
        seconds = self._claim_seconds.get(stage, 0.0)
        if self._current is not None and self._current[0] is stage:
            seconds += time.monotonic() - self._current[1]
        return seconds

    def advance(self, **changes: Any) -> None:
        """Write changes of the job. `metrics` are merged into the job's metrics."""
        with self.writing() as uow:
            job_lifecycle.advance(uow, self.lease, **changes)
        if "metrics" in changes:
            changes["metrics"] = {**self.job.metrics, **changes["metrics"]}
        self.job = self.job.evolve(**changes)

    def reporter(self, stage: Stage) -> Progress:
        """Return a callback that takes a stage's progress in 0 to 1 and raises as `check` does."""
        plan = self._plans[stage]
        written_at = time.monotonic()

        def report(fraction: float) -> None:
            nonlocal written_at
            self.check()
            now = time.monotonic()
            if now - written_at >= _REPORT_INTERVAL:
                written_at = now
                progress = plan.start + (plan.end - plan.start) * min(max(fraction, 0.0), 1.0)
                # Progress must not decrease when a stronger method repeats a stage.
                self.advance(progress=max(self.job.progress, progress))

        return report
