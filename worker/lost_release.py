"""Replace the live release if its files are gone, because artifacts were restored or lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.domain.errors import RestoringError
from app.services import renewals

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWorkFactory

log = structlog.get_logger(__name__)


def replace_lost_release(
    uow_factory: UnitOfWorkFactory, artifacts: ArtifactStore, settings: Settings
) -> None:
    """Start a renewal if the files of the live release are gone and no job is open.

    A batch of deletions trains without the lost weights, so that a waiting batch comes first.
    """
    with uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        release = None if live is None else uow.releases.get(live)
        if release is None or uow.jobs.open_job() is not None or uow.requests.any_waiting():
            return
    if artifacts.exists(release.path):
        return
    with uow_factory() as uow:
        if uow.releases.alias().live != live:
            return
        try:
            job = renewals.replace_lost_release(uow, settings)
        except RestoringError as error:
            log.warning("lost_release_not_replaced", release=live, code=error.code)
            return
    if job is not None:
        log.warning("lost_release_replaced", release=live, job=job.id)
