"""One job from its claim to its end.

Until its release's row exists, a job that is claimed again starts over from freezing, in a
directory of its own epoch. From then on it goes on where it stood: every later stage may be
repeated. Once the alias has flipped, the only way is forward: an error then leaves the lease to
lapse, and the next claim continues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import LeaseLostError, LetheError, UnavailableError
from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome
from app.services import completion as complete
from app.services import jobs as job_lifecycle
from app.services.certificates import Evidence
from app.tracebacks import error_location
from worker.errors import ReleaseMissingError, WorkerStoppedError
from worker.heartbeat import LeaseHeartbeat
from worker.run import JobRun
from worker.stages.build import Builder
from worker.stages.roll_out import publish, roll_out
from worker.stages.shred import clear_lower_epochs, shred
from worker.stages.snapshot import take_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from app.domain.jobs import Job, Lease
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)

_NOT_COVERED: Final = (
    "the source files that data was imported from",
    "backups of the database and of the artefacts",
    "free space of file systems and of storage devices",
    "copies in the local caches of other machines, where artefacts are in a remote store",
    "memory of processes until it is used again",
)
_NOT_COVERED_POSTGRESQL: Final = (
    "write-ahead logs of PostgreSQL and archives of them",
    "free space within PostgreSQL's data files until it is used again",
)
_WAL_WAS_READ: Final = "SQLite's write-ahead log, which readers kept from being emptied"
#: The stages that a later claim continues from.
_LATE: Final = (Stage.ROLL_OUT, Stage.DELETE_ROWS, Stage.SHRED, Stage.CERTIFY)


def run_job(
    context: WorkerContext,
    claimed: tuple[Job, Lease],
    claimed_at: float,
    *,
    stop: Event,
    on_stage: Callable[[Stage], None],
) -> None:
    """Work on a claimed job until it ends, the lease is lost or a stop is asked for."""
    job, lease = claimed
    heartbeat = LeaseHeartbeat(
        context.uow_factory,
        lease,
        lease_seconds=context.settings.job_lease,
        claimed_at=claimed_at,
    )
    with heartbeat:
        run = JobRun(context, job, lease, heartbeat, stop=stop, on_stage=on_stage)
        try:
            _carry_out(run)
        except LeaseLostError:
            # Somebody else has the job; nothing that this claim could still write would count.
            log.warning("lease_lost", job=job.id, epoch=lease.epoch)
        except WorkerStoppedError:
            _give_back(run)
        except Exception as error:  # noqa: BLE001 # whatever it was, the job's row must tell
            _fail(run, error)


def _carry_out(run: JobRun) -> None:
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
    forgetting = run.job.kind is JobKind.FORGET
    # Before the first release, forgetting is rows only.
    rows_only = forgetting and live is None and run.job.release is None
    begun = _LATE.index(run.job.stage) if run.job.stage in _LATE else 0
    if run.job.release is None and not rows_only:
        _make_release(run, live)
        begun = 0
    if run.job.release is not None and begun <= _LATE.index(Stage.ROLL_OUT):
        roll_out(run, run.job.release)
    if forgetting and begun <= _LATE.index(Stage.DELETE_ROWS):
        _delete_rows(run)
    if begun <= _LATE.index(Stage.SHRED):
        shred(run)
    _certify(run) if forgetting else _succeed(run)
    log.info("job_succeeded", job=run.job.id, release=run.job.release)


def _make_release(run: JobRun, live: str | None) -> None:
    run.begin(Stage.SNAPSHOT)
    clear_lower_epochs(run)
    settings = run.context.settings
    snapshot = take_snapshot(
        run.context.uow_factory,
        run.context.pseudonyms,
        job_id=run.job.id,
        holdout_share=settings.holdout_share,
    )
    run.advance(snapshot_version=snapshot.version, parent_release=live)
    parent = None
    if live is not None:
        with run.context.uow_factory(write=False) as uow:
            parent = uow.releases.get(live)
        if parent is None:
            raise ReleaseMissingError(release_id=live)
    publish(run, Builder(run, snapshot, parent).build(), parent)


def _delete_rows(run: JobRun) -> None:
    run.begin(Stage.DELETE_ROWS)
    with run.writing() as uow:
        deleted = complete.delete_rows(uow, run.lease)
    # A repetition finds no rows any more; the count is of the first time.
    run.advance(metrics={"rows_deleted": run.job.metrics.get("rows_deleted", 0) + deleted})


def _certify(run: JobRun) -> None:
    run.begin(Stage.CERTIFY)
    evidence = _evidence(run)
    with run.writing() as uow:
        complete.finish(uow, run.lease, run.context.signer, evidence)
    # The requests' ids went only now; the remains of their old rows must go as well.
    if not run.context.scrub_database():
        log.warning("remains_not_erased", job=run.job.id)


def _succeed(run: JobRun) -> None:
    with run.writing() as uow:
        job_lifecycle.succeed(uow, run.lease)


def _evidence(run: JobRun) -> Evidence:
    release = None
    if run.job.release is not None:
        with run.context.uow_factory(write=False) as uow:
            release = uow.releases.get(run.job.release)
    outcome = release.outcome if release is not None else None
    not_covered: tuple[str, ...] = _NOT_COVERED
    if not run.context.database.is_sqlite:
        not_covered += _NOT_COVERED_POSTGRESQL
    elif not run.job.metrics.get("scrubbed", False):
        not_covered += (_WAL_WAS_READ,)
    return Evidence(
        outcome=outcome or Outcome.NOT_APPLICABLE,
        figures=dict(release.metrics) if release is not None else {},
        shredded=dict(run.job.metrics.get("shredded", {})),
        not_covered=not_covered,
    )


def _give_back(run: JobRun) -> None:
    log.info("job_given_back", job=run.job.id, stage=run.job.stage.value)
    try:
        with run.context.uow_factory() as uow:
            job_lifecycle.give_back(uow, run.lease)
    except (LeaseLostError, UnavailableError) as error:
        # The lease then simply runs out.
        log.warning("give_back_failed", job=run.job.id, error=type(error).__name__)


def _fail(run: JobRun, error: Exception) -> None:
    """End the job as failed, unless it may and should go on later."""
    if run.has_lost_lease():
        # Another claim cleared this one's files away; that is no failure of the job.
        log.warning("lease_lost", job=run.job.id, epoch=run.lease.epoch, error=type(error).__name__)
        return
    log.error("job_error", job=run.job.id, **error_location(error))
    try:
        if isinstance(error, UnavailableError) or _has_flipped(run):
            return
        message = str(error) if isinstance(error, LetheError) else type(error).__name__
        with run.context.uow_factory() as uow:
            error_text = f"{run.job.stage}: {message}"
            job_lifecycle.fail(uow, run.lease, error_text, run.context.settings)
        run.context.artifacts.remove_staging(run.job.id)
    except LetheError as second:
        # The lease then runs out, and the job is claimed again.
        log.warning("job_not_failed", job=run.job.id, error=type(second).__name__)


def _has_flipped(run: JobRun) -> bool:
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
    return run.job.release is not None and live == run.job.release
