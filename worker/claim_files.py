"""Files of claims: lock them while a claim's process lives, and sweep what claims leave behind.

Every worker and relay sweeps its own machine, also during the jobs of other machines, so any action
here may be repeated and may run in several processes at once.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.jobs import OPEN_JOB_STATUSES
from app.domain.scrubs import ScrubKind
from app.services import jobs as job_lifecycle
from worker.failures import attempt

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from app.domain.jobs import Job, JobClaim, Lease
    from app.domain.scrubs import OwedScrub
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)

#: The kinds of erasures that a claim owes, with the path that the job and the epoch complete.
_OWED_PATHS: Final = {ScrubKind.STAGING: "staging/{}/{}", ScrubKind.UPLOAD: "releases/*.{}.{}"}
_CLAIM: Final = re.compile(r".*[./](?P<job>[^./]+)[./](?P<epoch>[0-9]+)")


def claim_with_lock(
    uow: UnitOfWork, context: WorkerContext, lock: ExitStack
) -> tuple[Job, Lease] | None:
    """Claim a job, record the claim with its machine, and let `lock` hold the claim's lock.

    The lock is taken before the claim is committed. Otherwise a process suspended in between would
    count as ended.
    """
    claimed = job_lifecycle.claim(uow, context.worker_id, context.settings)
    if claimed is not None:
        _, lease = claimed
        lock.enter_context(context.artifacts.claim_lock(lease.job_id, lease.epoch))
        uow.job_claims.add(lease.job_id, lease.epoch, context.artifacts.machine)
    return claimed


def sweep_files(uow_factory: UnitOfWorkFactory, store: ArtifactStore) -> None:
    """Remove the files of stale claims on this machine, and close owed erasures.

    A suspended claim may write files long after its job has ended. Its files are removed by each
    sweep, and its erasures are closed by the first sweep after the end of its process.
    """
    # Claims of earlier versions left files but no row.
    staged = {(job, epoch) for job in store.staged_jobs() for epoch in store.staged_epochs(job)}
    with uow_factory(write=False) as uow:
        unended = uow.job_claims.unended()
        here = {(claim.job_id, claim.epoch) for claim in unended if claim.machine == store.machine}
        stale = [claim for claim in sorted(staged | here) if _is_stale(uow, *claim, store.machine)]
        may_publish = any(_is_stale(uow, claim.job_id, claim.epoch) for claim in unended)
    # Files of a claim that cannot be unlinked leave only the erasures of that claim open.
    ended = [
        claim for claim in stale if attempt(partial(store.end_claim, *claim), "claim_not_ended")
    ]
    if may_publish:  # Otherwise the listing, which costs requests to the remote store, is useless.
        _remove_orphans(uow_factory, store)
    store.remove_incoming()
    store.evict_all()
    _close(uow_factory, store, ended)


def _remove_orphans(uow_factory: UnitOfWorkFactory, store: ArtifactStore) -> None:
    """Remove published files of stale claims that no release's row names."""
    # The listing comes first: a release that is published and recorded in between is not listed.
    for path in store.published():
        claim = store.claim_of(path)
        with uow_factory(write=False) as uow:
            is_orphan = (
                claim is not None
                and _is_stale(uow, *claim)
                and path not in {release.path for release in uow.releases.unshredded()}
            )
        if is_orphan:
            removed = store.remove(path)
            log.warning("orphan_removed", path=path, files=len(removed))


def owe_claims(uow: UnitOfWork, job_id: str, claims: Iterable[JobClaim]) -> None:
    """Record that these claims may still have or publish files."""
    for claim in claims:
        _owe_claim(uow, job_id, claim.job_id, claim.epoch, claim.machine)


def owe_unrecorded(uow: UnitOfWork, lease: Lease) -> None:
    """Record the same for claims of the job by an earlier version, whose machines are unknown."""
    recorded = {claim.epoch for claim in uow.job_claims.of_job(lease.job_id)}
    for epoch in sorted(set(range(1, lease.epoch)) - recorded):
        _owe_claim(uow, lease.job_id, lease.job_id, epoch, None)


def owe_copies(uow: UnitOfWork, job_id: str, store: ArtifactStore, paths: Iterable[str]) -> None:
    """Record local copies that stay because a process uses them."""
    for path in paths:
        _owe(uow, ScrubKind.COPY, job_id, store.machine, path)


def _owe_claim(
    uow: UnitOfWork, job_id: str, claimed_job: str, epoch: int, machine: str | None
) -> None:
    for kind, path in _OWED_PATHS.items():
        _owe(uow, kind, job_id, machine, path.format(claimed_job, epoch))


def _owe(uow: UnitOfWork, kind: str, job_id: str, machine: str | None, path: str) -> None:
    """Record an owed erasure, unless it is recorded for this job."""
    owed = {(scrub.kind, scrub.host, scrub.path) for scrub in uow.scrubs.open_of_job(job_id)}
    if (kind, machine, path) not in owed:
        uow.scrubs.owe(kind, job_id=job_id, host=machine, path=path)


def _is_stale(uow: UnitOfWork, job_id: str, epoch: int, machine: str | None = None) -> bool:
    """Return whether the claim has lost its job, and the files are left to the sweepers.

    The present claim of an open job, if on the same `machine`, records the digests of the files of
    earlier claims before it removes them. An unknown job may belong to another installation.
    """
    job = uow.jobs.find(job_id)
    if job is None:
        return False
    if job.status not in OPEN_JOB_STATUSES:
        return True
    if epoch >= job.epoch:
        return False
    if machine is None:
        return True
    present = [claim for claim in uow.job_claims.of_job(job_id) if claim.epoch == job.epoch]
    return bool(present) and present[0].machine != machine


def _close(
    uow_factory: UnitOfWorkFactory, store: ArtifactStore, ended: list[tuple[str, int]]
) -> None:
    """Record the end of these claims, and close the owed erasures that are carried out."""
    with uow_factory(write=False) as uow:
        owed = _open_scrubs(uow)
    if not ended and not owed:
        return
    left = set(store.copies())
    with uow_factory() as uow:
        for job_id, epoch in ended:
            uow.job_claims.add(job_id, epoch, store.machine)
            uow.job_claims.end(job_id, epoch)
        for scrub in owed:
            if _is_carried_out(uow, scrub, store.machine, left):
                uow.scrubs.close(scrub.id)


def _open_scrubs(uow: UnitOfWork) -> list[OwedScrub]:
    return [
        scrub
        for kind in (*_OWED_PATHS, ScrubKind.COPY)
        for scrub in uow.scrubs.open_ones(kind=kind)
    ]


def _is_carried_out(uow: UnitOfWork, scrub: OwedScrub, machine: str, left: set[str]) -> bool:
    path = scrub.path or ""
    if scrub.kind == ScrubKind.COPY:
        return scrub.host == machine and path not in left
    match = _CLAIM.fullmatch(path)
    if match is None:
        return False
    claims = uow.job_claims.of_job(match["job"])
    return any(c.epoch == int(match["epoch"]) and c.ended_at is not None for c in claims)
