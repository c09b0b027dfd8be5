"""Publish a release and roll it out to all replicas.

A rollout has three steps: all replicas prepare the release, the alias flips to the release, and all
replicas confirm that they serve it. `worker.stages.roll_out` waits between the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    """Record the release as a candidate and set the job to `publishing`.

    Raises StaleDataError if a deletion completed after the job's data snapshot, because the weights
    may contain the deleted data, and ReleaseExistsError for weights that were served before.
    """
    job = uow.jobs.get(lease.job_id)
    uow.jobs.update(lease, status=JobStatus.PUBLISHING)  # Locks the job row before the reads below.
    if job.snapshot_version is None or uow.requests.completed_since(job.snapshot_version):
        raise StaleDataError(job_id=job.id)
    uow.releases.add(release)
    advance(uow, lease, stage=Stage.PUBLISH, release=release.id)


def start_rollout(uow: UnitOfWork, lease: Lease, release_id: str) -> None:
    """Set the job to `rolling_out` and the candidate as the release that replicas prepare."""
    advance(uow, lease, status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
    if uow.releases.alias().live != release_id:
        uow.releases.set_target(release_id)


def flip(uow: UnitOfWork, lease: Lease, release_id: str) -> bool:
    """Make the release live and retire its predecessor.

    Return False if another transaction changed the alias first. A repeated call after a crash
    changes nothing and returns True.
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
    """Forbid the replicas to renew their leases, so that they stop answering at expiry."""
    uow.jobs.update(lease)
    uow.replicas.fence(replica_ids)


def confirmation(replica: Replica) -> dict[str, Any]:
    """Return what a certificate states about a replica that serves the release."""
    since = replica.serving_since
    return {
        "replica": replica.id,
        "release": replica.serving,
        "confirmed_at": None if since is None else since.isoformat(),
        "precision": replica.precision,
        "scorer": replica.scorer,
        "software": replica.software,
    }


def unprepared(replicas: Iterable[Replica], release_id: str) -> list[Replica]:
    """Return the replicas that must prepare the release before the flip; fenced ones need not."""
    return [r for r in replicas if not r.fenced and release_id not in (r.prepared, r.serving)]


def all_failed(replicas: Iterable[Replica], release_id: str) -> bool:
    """Return whether every replica that must prepare the release has failed to load it.

    False without such a replica. Other problems, such as a slow drain, do not count, because the
    replica may still prepare the release.
    """
    needed = [replica for replica in replicas if not replica.fenced]
    waiting = unprepared(needed, release_id)
    has_failed = all(replica.failed_release == release_id for replica in waiting)
    return bool(needed) and len(waiting) == len(needed) and has_failed


def unconfirmed(
    replicas: Iterable[Replica], release_id: str, live_at: datetime | None = None
) -> list[Replica]:
    """Return the replicas that may still answer from another release, fenced ones included.

    Not counted: a replica that registered after `live_at` and serves nothing, because it never had
    an older release. Otherwise, a replica that cannot load the release would register again after
    each fencing and delay the deletion forever.
    """
    return [
        r
        for r in replicas
        if r.serving != release_id
        and not (r.serving is None and live_at is not None and r.registered_at > live_at)
    ]
