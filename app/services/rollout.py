"""Publishes a release and rolls it out: all replicas prepare, one flip, all confirm.

The predicates are pure functions over the replicas that may still answer; the pipeline waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import StaleDataError
from app.domain.jobs import JobStatus, Stage
from app.domain.releases import ReleaseStatus
from app.services.jobs import advance

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from app.domain.jobs import Lease
    from app.domain.releases import Release, Replica
    from app.storage.unit_of_work import UnitOfWork


def publish(uow: UnitOfWork, lease: Lease, release: Release) -> None:
    """Record the release as a candidate and the job as publishing.

    Refused when a deletion completed after this job's data was frozen: the weights might hold
    that person. Raises ReleaseExistsError for weights that were served before.
    """
    job = uow.jobs.get(lease.job_id)
    uow.jobs.update(lease, status=JobStatus.PUBLISHING)  # Locks the job before anything is read.
    if job.snapshot_version is None or uow.requests.completed_since(job.snapshot_version):
        raise StaleDataError(job_id=job.id)
    uow.releases.add(release)
    advance(uow, lease, stage=Stage.PUBLISH, release=release.id)


def start_rollout(uow: UnitOfWork, lease: Lease, release_id: str) -> None:
    """Ask the replicas to prepare the candidate; the job is rolling out from now on."""
    advance(uow, lease, status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
    if uow.releases.alias().live != release_id:
        uow.releases.set_target(release_id)


def flip(uow: UnitOfWork, lease: Lease, release_id: str) -> bool:
    """Make the release live and retire its predecessor; False when somebody was faster.

    Flipping once more after a crash changes nothing and says True.
    """
    uow.jobs.update(lease, stage=Stage.ROLL_OUT)
    alias = uow.releases.alias()
    if alias.live == release_id:
        return True
    if not uow.releases.flip(alias, release_id):
        return False
    uow.releases.update(release_id, status=ReleaseStatus.LIVE, live_at=uow.state.now())
    if alias.live is not None:
        uow.releases.update(alias.live, status=ReleaseStatus.RETIRED)
    return True


def fence(uow: UnitOfWork, lease: Lease, replica_ids: Iterable[str]) -> None:
    """Count laggards out: they can renew no more, and their leases run out."""
    uow.jobs.update(lease)
    uow.replicas.fence(replica_ids)


def unprepared(replicas: Iterable[Replica], release_id: str) -> list[Replica]:
    """Return the replicas that the flip has to wait for; fenced ones can only run out."""
    return [r for r in replicas if not r.fenced and release_id not in (r.prepared, r.serving)]


def unconfirmed(
    replicas: Iterable[Replica], release_id: str, live_at: datetime | None = None
) -> list[Replica]:
    """Return the replicas that may still answer from another release, fenced ones included.

    A replica that registered after the flip, at `live_at`, has read the new alias in that very
    transaction. While it serves nothing it has nothing older to answer from, so one that cannot
    load, and comes back under a new name whenever it is fenced, holds up no deletion.
    """
    return [
        r
        for r in replicas
        if r.serving != release_id
        and not (r.serving is None and live_at is not None and r.registered_at > live_at)
    ]
