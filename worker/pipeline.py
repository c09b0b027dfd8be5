"""Run one claimed job from its current stage to its end.

`STAGES` is the order of a job. A claim of a job without a release row starts with a new snapshot,
in a staging directory of its own. A claim of a job with a release row continues at the recorded
stage if that stage is resumable, otherwise at the rollout. An error of the environment, and any
error after the alias has moved to the new release, does not end the job: the error is recorded, the
lease ends after a back-off, and the next claim continues.
"""

from __future__ import annotations

import time
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import LeaseLostError, LetheError, UnavailableError
from app.domain.jobs import JobKind, JobStatus, Stage
from app.domain.requests import Outcome
from app.services import jobs as job_lifecycle
from app.services.retries import MAX_BACK_OFF
from app.tracebacks import error_location
from worker.errors import ReleaseMissingError, WorkerStoppedError
from worker.failures import describe_failure
from worker.heartbeat import LeaseHeartbeat
from worker.job_run import JobRun, StagePlan
from worker.stages.build import Builder
from worker.stages.certify import certify
from worker.stages.delete_rows import delete_rows
from worker.stages.roll_out import publish, roll_out
from worker.stages.shred import clear_lower_epochs, shred
from worker.stages.snapshot import stamp_unknown_versions, take_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from app.domain.jobs import Job, Lease
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


def _make_release(run: JobRun) -> None:
    """Take a snapshot of the data, build and audit the weights, and publish the release."""
    run.begin(Stage.SNAPSHOT)
    clear_lower_epochs(run)
    stamp_unknown_versions(run.context.uow_factory)
    snapshot = take_snapshot(
        run.context.uow_factory,
        run.context.pseudonyms,
        job_id=run.job.id,
    )
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        parent = uow.releases.get(live) if live is not None else None
    run.advance(snapshot_version=snapshot.version, parent_release=live)
    if live is not None and parent is None:
        raise ReleaseMissingError(release_id=live)
    if parent is not None and not run.context.artifacts.exists(parent.path):
        # The artifact store was restored or lost. Nothing can be unlearned from missing weights.
        log.warning("parent_missing", job=run.job.id, release=parent.id)
        publish(run, Builder(run, snapshot, None, lost_parent=parent).build(), None)
        return
    publish(run, Builder(run, snapshot, parent).build(), parent)


#: The stages of a job in their order. A row without a function is begun by `_make_release`.
STAGES: Final = (
    StagePlan(Stage.SNAPSHOT, JobStatus.RUNNING, 0.0, 0.02, _make_release),
    StagePlan(Stage.TRAIN, JobStatus.RUNNING, 0.02, 0.65),
    StagePlan(Stage.UNLEARN, JobStatus.RUNNING, 0.02, 0.6),
    StagePlan(Stage.MERGE, JobStatus.RUNNING, 0.6, 0.65),
    StagePlan(Stage.AUDIT, JobStatus.AUDITING, 0.65, 0.8),
    StagePlan(Stage.PUBLISH, JobStatus.PUBLISHING, 0.8, 0.82),
    StagePlan(Stage.ROLL_OUT, JobStatus.ROLLING_OUT, 0.82, 0.94, roll_out, resumable=True),
    StagePlan(Stage.DELETE_ROWS, JobStatus.ROLLING_OUT, 0.94, 0.96, delete_rows, resumable=True),
    StagePlan(Stage.SHRED, JobStatus.ROLLING_OUT, 0.96, 0.98, shred, resumable=True),
    StagePlan(Stage.CERTIFY, JobStatus.ROLLING_OUT, 0.98, 1.0, certify, resumable=True),
)


def run_job(
    context: WorkerContext,
    job: Job,
    lease: Lease,
    *,
    claimed_at: float,
    stop: Event,
    on_stage: Callable[[Stage], None],
) -> None:
    """Work on a claimed job until the job ends, the lease is lost or a stop is requested.

    `claimed_at` is `time.monotonic()` from before the claim. `on_stage` is called when a stage has
    been recorded as begun.
    """
    heartbeat = LeaseHeartbeat(
        context.uow_factory,
        lease,
        lease_seconds=context.settings.job_lease,
        claimed_at=claimed_at,
    )
    run = JobRun(context, job, lease, heartbeat, stages=STAGES, stop=stop, on_stage=on_stage)
    interruption: Exception | None = None
    with heartbeat:
        try:
            _run_stages(run)
        except Exception as error:  # noqa: BLE001 # the job's row shows every kind of failure
            interruption = error
        finally:
            run.stop_reading()
    # The heartbeat has ended, so that it cannot prolong a lease that ends here.
    if isinstance(interruption, LeaseLostError):
        _leave(run, heartbeat)
    elif isinstance(interruption, WorkerStoppedError):
        _give_back(run)
    elif interruption is not None:
        _record_failure(run, interruption, stop)


def _run_stages(run: JobRun) -> None:
    reason = None
    if _is_inferred_carry_over(run):
        reason = "an earlier version carried weights over without a record"
    elif _is_release_lost(run):
        reason = f"the files of the release {run.job.release} are gone"
    if reason is not None:
        error = f"{run.job.stage}: {reason}"
        with run.writing() as uow:
            job_lifecycle.fail(uow, run.lease, error, run.context.settings)
        log.error("job_ended", job=run.job.id, reason=error)
        return
    first = _first_stage(run)
    for plan in dropwhile(lambda plan: plan.stage is not first, STAGES):
        if plan.run is not None:
            plan.run(run)
    log.info("job_succeeded", job=run.job.id, release=run.job.release)


def _first_stage(run: JobRun) -> Stage:
    """Return the stage at which this claim starts or continues the job."""
    resumable = [plan.stage for plan in STAGES if plan.resumable]
    if run.job.release is None and not _is_rows_only(run):
        return STAGES[0].stage
    return run.job.stage if run.job.stage in resumable else resumable[0]


def _is_rows_only(run: JobRun) -> bool:
    """Return whether this is a deletion before the first release: no weights have to change."""
    with run.context.uow_factory(write=False) as uow:
        return run.job.kind is JobKind.FORGET and uow.releases.alias().live is None


def _is_inferred_carry_over(run: JobRun) -> bool:
    """Return whether an earlier version carried the weights over without a record of training.

    That version inferred that the weights do not know the batch, which may be false. A job of this
    version stores an outcome for each request. The next job of the requests retrains exactly,
    because the live release has no record, and its certificates cite this job too.
    """
    if run.job.kind is not JobKind.FORGET or run.job.release is None:
        return False
    with run.context.uow_factory(write=False) as uow:
        release = uow.releases.get(run.job.release)
        if release is None or release.outcome is not Outcome.NOT_APPLICABLE:
            return False
        audits = [
            audit
            for request in uow.requests.of_job(run.job.id)
            for audit in uow.request_jobs.of_request(request.id)
        ]
    return all(audit.outcome is None for audit in audits if audit.job_id == run.job.id)


def _is_release_lost(run: JobRun) -> bool:
    """Return whether a restored artifact store lacks the release that the job would roll out.

    The requests of the job then wait for the next batch. After the flip, the job only has to delete
    rows and files, and a renewal replaces the release (`worker/lost_release.py`).
    """
    if run.job.release is None:
        return False
    with run.context.uow_factory(write=False) as uow:
        release = uow.releases.get(run.job.release)
        is_past_flip = uow.jobs.is_past_flip(run.job.id)
    is_lost = release is None or not run.context.artifacts.exists(release.path)
    return is_lost and not is_past_flip


def _leave(run: JobRun, heartbeat: LeaseHeartbeat) -> None:
    """Stop working on a job that was cancelled or that another worker may hold.

    The database rejects every write of this claim. If the database was away for longer than the
    lease, the attempt does not count.
    """
    log.warning("lease_lost", job=run.job.id, epoch=run.lease.epoch)
    if heartbeat.had_errors:
        _give_back(run)


def _give_back(run: JobRun) -> None:
    log.info("job_given_back", job=run.job.id, stage=run.job.stage.value)
    try:
        with run.context.uow_factory() as uow:
            job_lifecycle.give_back(uow, run.lease)
    except (LeaseLostError, UnavailableError) as error:
        # The job was cancelled or claimed again, or the lease expires by itself.
        log.warning("give_back_failed", job=run.job.id, error=type(error).__name__)


def _record_failure(run: JobRun, error: Exception, stop: Event) -> None:
    """Record why the job was interrupted, and end the job unless a later claim can finish it."""
    settings = run.context.settings
    if run.has_lost_lease():
        # The error may come from another claim that removed this claim's files.
        log.warning("lease_lost", job=run.job.id, epoch=run.lease.epoch, error=type(error).__name__)
        return
    roots = [Path(settings.artifacts_root).absolute(), settings.home.absolute()]
    failure = describe_failure(error, run.job.stage, roots)
    log.error("job_error", job=run.job.id, reason=failure.text, **error_location(error))
    deadline = time.monotonic() + MAX_BACK_OFF
    while True:
        try:
            with run.context.uow_factory() as uow:
                status = job_lifecycle.record_failure(uow, run.lease, failure, settings)
            break
        except UnavailableError as second:
            # An attempt that the database interrupted must not count, so its end is recorded.
            log.warning("failure_not_recorded", job=run.job.id, error=type(second).__name__)
            if time.monotonic() >= deadline or stop.wait(settings.poll_seconds):
                return
        except LetheError as second:
            log.warning("failure_not_recorded", job=run.job.id, error=type(second).__name__)
            return
    if status is not JobStatus.FAILED:
        log.error("job_retried_later", job=run.job.id, stage=run.job.stage.value)
