"""Publish a release and roll it out: replicas prepare it, the alias flips, replicas confirm it."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from app.domain.identifiers import release_id
from app.domain.jobs import Stage
from app.domain.releases import Release, ReleaseStatus
from app.domain.requests import Outcome
from app.services import rollout
from app.services.exactness import FROM_SCRATCH
from app.services.retries import has_lost_rows
from worker.errors import RollOutError
from worker.learner import RequestFigures
from worker.lineage import training_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.releases import Replica
    from app.storage.unit_of_work import UnitOfWork
    from worker.job_run import JobRun
    from worker.stages.build import Built

log = structlog.get_logger(__name__)

#: Time between two reads of the replicas' rows, in seconds.
_POLL_SECONDS: Final = 0.1
_NOT_LOADABLE: Final = "no replica could load it"


def publish(run: JobRun, built: Built, parent: Release | None) -> None:
    """Move the weights to the artifact store and record the release as a candidate."""
    run.begin(Stage.PUBLISH)
    new_id = release_id(built.artifact.digest)
    path = run.context.artifacts.release_path(new_id, run.job.id, run.lease.epoch)
    run.check()  # A process that was suspended here may have lost its lease.
    run.context.artifacts.publish(built.artifact.directory, path, run.check)
    with run.writing() as uow:
        lineage = built.lineage
        if built.attempt_seconds is not None:
            seconds = training_seconds(run, uow, built.attempt_seconds)
            lineage = replace(lineage, training_seconds=seconds)
        rollout.publish(
            uow,
            run.lease,
            Release(
                id=new_id,
                digest=built.artifact.digest,
                parent=parent.id if parent else None,
                job_id=run.job.id,
                status=ReleaseStatus.CANDIDATE,
                method=built.artifact.method,
                outcome=built.outcome,
                path=path,
                metrics=_metrics(built),
                created_at=uow.state.now(),
                **asdict(lineage),
            ),
        )
        _record_audits(uow, run, built)
        # A job may have ended with a stronger method than its own.
        uow.jobs.update(run.lease, method=built.artifact.method)
    run.job = run.job.evolve(release=new_id, method=built.artifact.method)


def _metrics(built: Built) -> dict[str, Any]:
    metrics: dict[str, Any] = {"training": built.artifact.metrics, "audit": built.figures}
    if built.evaluation:
        metrics["evaluation"] = built.evaluation
    if built.from_scratch is not None:
        metrics[FROM_SCRATCH] = built.from_scratch
    return metrics


def _record_audits(uow: UnitOfWork, run: JobRun, built: Built) -> None:
    """Store the outcome and the figures of each request of the batch."""
    if built.outcome is None:
        return
    _record_absent(uow, run.job.id)
    # A worker of the previous version may have assigned the requests, without these rows.
    uow.request_jobs.add(run.job.id, built.by_request)
    for request_id, figures in built.by_request.items():
        outcome = figures.outcome(built.outcome)
        if outcome is Outcome.NOT_APPLICABLE and has_lost_rows(uow, uow.requests.get(request_id)):
            # An earlier job deleted the rows, so the snapshot cannot show that they were trained.
            figures = replace(figures, known_rows=None)  # noqa: PLW2901 - only this field differs
            if built.outcome is Outcome.EXACT:
                outcome = Outcome.EXACT
        uow.request_jobs.set_audit(run.job.id, request_id, outcome, figures.values())


def _record_absent(uow: UnitOfWork, job_id: str) -> None:
    """Record that nothing is stored of requests without plain ids.

    They come from the ledger, after a restore, or suppress a user without data. Weights know rows
    that are not stored only of deletions that are approximate or were completed before a restore.
    """
    has_debt = uow.renewals.debt() != (None, None)
    for request in uow.requests.of_job(job_id):
        if request.subject is None and request.recovered is not None and not request.rows_deleted:
            uow.request_jobs.add(job_id, [request.id])
            may_be_known = has_debt or bool(request.recovered)
            figures = None if may_be_known else RequestFigures(known_rows=0).values()
            uow.request_jobs.set_audit(job_id, request.id, Outcome.NOT_APPLICABLE, figures)


def roll_out(run: JobRun) -> None:
    """Return when every live replica answers from the job's release. Slow replicas are fenced.

    A deletion before the first release has no release to roll out.
    """
    target = run.job.release
    if target is None:
        return
    run.begin(Stage.ROLL_OUT)
    with run.writing() as uow:
        rollout.start_rollout(uow, run.lease, target)
    _check_loadable(run, target, _wait_until_prepared(run, target))
    with run.writing() as uow:
        flipped = rollout.flip(uow, run.lease, target)
    if not flipped:
        raise RollOutError(release_id=target, reason="another process moved the alias")
    wait_until_confirmed(run, target)


def _wait_until_prepared(run: JobRun, target: str) -> list[Replica]:
    """Wait until all live replicas have prepared the release; return those left at the timeout.

    If all of them have failed to load the release, the rollout ends without waiting further.
    """
    with run.context.uow_factory(write=False) as uow:
        is_live = uow.releases.alias().live == target

    def unprepared(replicas: list[Replica]) -> list[Replica]:
        if not is_live and rollout.all_failed(replicas, target):
            raise RollOutError(release_id=target, reason=_NOT_LOADABLE)
        return rollout.unprepared(replicas, target)

    return _wait_while(run, unprepared)


def wait_until_confirmed(run: JobRun, target: str) -> None:
    """Wait until no replica can answer from another release.

    After LETHE_ROLLOUT_TIMEOUT, the remaining replicas are fenced: they cannot renew their leases,
    which expire, with the margin, by the database's clock.
    """
    with run.context.uow_factory(write=False) as uow:
        release = uow.releases.get(target)
    live_at = release.live_at if release is not None else None

    def unconfirmed(replicas: list[Replica]) -> list[Replica]:
        return rollout.unconfirmed(replicas, target, live_at)

    slow_replicas = _wait_while(run, unconfirmed)
    if slow_replicas:
        replica_ids = [replica.id for replica in slow_replicas]
        log.warning("replicas_fenced", job=run.job.id, replicas=replica_ids)
        fenced_ids = sorted({*run.job.metrics.get("fenced", []), *replica_ids})
        run.advance(metrics={"fenced": fenced_ids})
        with run.writing() as uow:
            rollout.fence(uow, run.lease, replica_ids)
    _wait_while(run, unconfirmed, timeout=float("inf"))
    _record_confirmations(run, target)


def _record_confirmations(run: JobRun, target: str) -> None:
    """Add the replicas that serve the release to the job's metrics, for the certificates."""
    with run.context.uow_factory(write=False) as uow:
        replicas = uow.replicas.live(run.context.settings.replica_margin)
    confirmed = {entry["replica"]: entry for entry in run.job.metrics.get("confirmed", [])}
    confirmed |= {r.id: rollout.confirmation(r) for r in replicas if r.serving == target}
    run.advance(
        metrics={
            "confirmed": list(confirmed.values()),
            "fenced": run.job.metrics.get("fenced", []),
        }
    )


def _wait_while(
    run: JobRun,
    select: Callable[[list[Replica]], list[Replica]],
    *,
    timeout: float | None = None,
) -> list[Replica]:
    """Wait until `select` returns none of the live replicas; return those left at the timeout.

    `timeout` is in seconds, LETHE_ROLLOUT_TIMEOUT by default.
    """
    settings = run.context.settings
    deadline = time.monotonic() + (settings.rollout_timeout if timeout is None else timeout)
    while True:
        with run.context.uow_factory(write=False) as uow:
            selected = select(uow.replicas.live(settings.replica_margin))
        if not selected or time.monotonic() >= deadline:
            return selected
        run.wait(_POLL_SECONDS)


def _check_loadable(run: JobRun, target: str, unprepared: list[Replica]) -> None:
    """Raise RollOutError if every live replica reports that it cannot load the release.

    The flip leaves slow or broken replicas behind, but must not leave the service without replicas.
    """
    with run.context.uow_factory(write=False) as uow:
        live_replicas = uow.replicas.live(run.context.settings.replica_margin)
        is_live = uow.releases.alias().live == target
    broken_ids = {replica.id for replica in unprepared if replica.problem}
    if live_replicas and not is_live and all(r.id in broken_ids for r in live_replicas):
        raise RollOutError(release_id=target, reason=_NOT_LOADABLE)
