"""Unlink the releases of cancelled jobs, which never served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.jobs import JobStatus
from app.domain.releases import ReleaseStatus

if TYPE_CHECKING:
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory


def remove_cancelled_releases(uow_factory: UnitOfWorkFactory, artifacts: ArtifactStore) -> None:
    """Unlink the candidate releases of cancelled jobs and mark them as shredded.

    While a job is open, nothing is done: an equal training may publish the same files again. The
    stage `shred` of that job unlinks the candidates.
    """
    with uow_factory(write=False) as uow:
        if not _candidates(uow):
            return
    with uow_factory() as uow:
        for release_id, path in _candidates(uow):
            artifacts.remove(path)
            now = uow.state.now()
            uow.releases.update(release_id, status=ReleaseStatus.SHREDDED, shredded_at=now)


def _candidates(uow: UnitOfWork) -> list[tuple[str, str]]:
    """Return id and path of each candidate of a cancelled job, or nothing while a job is open."""
    if uow.jobs.open_job() is not None:
        return []
    return [
        (release.id, release.path)
        for release in uow.releases.unshredded()
        if release.status is ReleaseStatus.CANDIDATE
        and uow.jobs.get(release.job_id).status is JobStatus.CANCELLED
    ]
