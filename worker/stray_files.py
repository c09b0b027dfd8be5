"""Remove files of releases that were shredded, or that the database does not know.

Such files are back if a backup of the artifacts was restored, and they are unknown if an older
database was restored. Both may contain weights that know forgotten persons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

log = structlog.get_logger(__name__)


def remove_strays(uow_factory: UnitOfWorkFactory, store: ArtifactStore) -> None:
    """Unlink published files, adapters and staging files that belong to no release and no job.

    While a job is open, nothing is done: the job may publish a release, and its stage `shred`
    removes strays too. Unknown files are removed only by an installation with deletions in its
    ledger. Another installation, started by mistake with the same store, has none.
    """
    with uow_factory(write=False) as uow:
        if uow.jobs.open_job() is not None:
            return  # A listing of a remote store takes time, so the check comes before as well.
    # The listing comes first: what a job publishes after the check below is not in the list.
    published = store.published()
    adapters = store.adapters()
    staged = [(job, epoch) for job in store.staged_jobs() for epoch in store.staged_epochs(job)]
    with uow_factory(write=False) as uow:
        if uow.jobs.open_job() is not None:
            return
        known = uow.releases.unshredded()
        has_ledger = uow.state.ledger_head() is not None
        own = {path for path in published if _is_own(uow, store, path)}
        unknown_claims = [claim for claim in staged if uow.jobs.find(claim[0]) is None]
    paths = {release.path for release in known}
    ids = {release.id for release in known}
    strays = [p for p in published if p not in paths and (has_ledger or p in own)]
    strays += [store.adapter_path(one) for one in adapters if has_ledger and one not in ids]
    for path in strays:
        removed = store.remove(path)
        log.warning("stray_removed", path=path, files=len(removed))
    for job_id, epoch in unknown_claims if has_ledger else ():
        if store.remove_unused_staging(job_id, epoch):
            log.warning("stray_removed", path=f"staging/{job_id}/{epoch}")


def _is_own(uow: UnitOfWork, store: ArtifactStore, path: str) -> bool:
    """Return whether a job of this database published these files."""
    claim = store.claim_of(path)
    return claim is not None and uow.jobs.find(claim[0]) is not None
