"""Complete the job: certify deletions that became exact, and complete the job's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from app.domain.jobs import JobKind, Stage
from app.domain.renewal import RenewalPolicy, effective_mode
from app.domain.requests import Outcome
from app.services import completion, exactness
from app.services import jobs as job_lifecycle
from app.services.certificates import Evidence
from app.services.scrubs import owe_certificate

if TYPE_CHECKING:
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWork
    from worker.job_run import JobRun

log = structlog.get_logger(__name__)

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
    """Certify what the release made exact, then end the job and complete its requests.

    Each transaction certifies a limited number of deletions, because it holds the data lock. The
    last one ends the job, so a job that was killed continues with the deletions that are left.
    """
    run.begin(Stage.CERTIFY)
    evidence = _evidence(run)
    is_ended = False
    while not is_ended:
        with run.writing() as uow:
            signer = run.context.signer
            certified_ids = exactness.certify_exact(uow, run.lease, signer, evidence)
            if len(certified_ids) < exactness.REQUESTS_PER_TRANSACTION:
                _end(run, uow, signer, evidence)
                is_ended = True
        if certified_ids:
            log.info("deletions_exact", job=run.job.id, requests=len(certified_ids))


def _end(run: JobRun, uow: UnitOfWork, signer: Signer, evidence: Evidence) -> None:
    if run.job.kind is JobKind.FORGET:
        completion.finish(uow, run.lease, signer, evidence)
        return
    if uow.requests.any_made_exact_by(run.job.id):
        owe_certificate(uow, run.job.id)
    job_lifecycle.succeed(uow, run.lease)


def _evidence(run: JobRun) -> Evidence:
    settings = run.context.settings
    release = None
    if run.job.release is not None:
        with run.context.uow_factory(write=False) as uow:
            release = uow.releases.get(run.job.release)
    policy = RenewalPolicy(mode=settings.exact, soon_seconds=settings.exact_soon_seconds)
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
        exact_mode=effective_mode(policy, release.training_seconds if release else None),
        exact_days=settings.exact_days,
        not_covered=not_covered,
    )


def _recorded(run: JobRun, metric: str) -> tuple[Any, ...] | None:
    """Return what the rollout recorded, or None for a job of a version that recorded nothing."""
    recorded = run.job.metrics.get(metric)
    return None if recorded is None else tuple(recorded)
