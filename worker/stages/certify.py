"""Complete the job: sign a certificate for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome
from app.services import completion
from app.services import jobs as job_lifecycle
from app.services.certificates import Evidence

if TYPE_CHECKING:
    from worker.job_run import JobRun

_NOT_COVERED: Final = (
    "the source files that data was imported from",
    "backups of the database and of the artifacts",
    "free space of file systems and of storage devices",
    "copies that dead processes left in the caches of other machines, until Lethe runs there again",
    "memory of processes until it is used again",
    "memory of a serving engine, where one is used: vLLM keeps unloaded adapters (its issue 54839)",
    "data that was exported or copied out of Lethe before the deletion",
)
_NOT_COVERED_POSTGRESQL: Final = (
    "write-ahead logs of PostgreSQL and archives of them",
    "statements and their parameters, where the server's settings log them",
    "free space within PostgreSQL's data files until it is used again",
)


def certify(run: JobRun) -> None:
    """Complete the requests of a deletion job. A job without requests only ends."""
    if run.job.kind is not JobKind.FORGET:
        with run.writing() as uow:
            job_lifecycle.succeed(uow, run.lease)
        return
    run.begin(Stage.CERTIFY)
    evidence = _evidence(run)
    with run.writing() as uow:
        completion.finish(uow, run.lease, run.context.signer, evidence)


def _evidence(run: JobRun) -> Evidence:
    release = None
    if run.job.release is not None:
        with run.context.uow_factory(write=False) as uow:
            release = uow.releases.get(run.job.release)
    outcome = release.outcome if release is not None else None
    not_covered: tuple[str, ...] = _NOT_COVERED
    if not run.context.database.is_sqlite:
        not_covered += _NOT_COVERED_POSTGRESQL
    return Evidence(
        outcome=outcome or Outcome.NOT_APPLICABLE,
        figures=dict(release.metrics) if release is not None else {},
        shredded=dict(run.job.metrics.get("shredded", {})),
        replicas=_recorded(run, "confirmed"),
        fenced_replicas=_recorded(run, "fenced"),
        not_covered=not_covered,
    )


def _recorded(run: JobRun, metric: str) -> tuple[Any, ...] | None:
    """Return what the rollout recorded, or None for a job of a version that recorded nothing."""
    recorded = run.job.metrics.get(metric)
    return None if recorded is None else tuple(recorded)
