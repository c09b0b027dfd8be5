"""Replace the live release if its files are gone, because artifacts were restored or lost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog

from app.domain.errors import JobRunningError, NothingToTrainError, RestoringError
from app.domain.jobs import JobKind, JobStatus
from app.domain.renewal import RenewalReason
from app.services import jobs as job_lifecycle
from app.services.retries import back_off

if TYPE_CHECKING:
    from app.domain.jobs import Job
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

log = structlog.get_logger(__name__)
#: Number of past jobs that are searched for failures.
_RECENT_JOBS: Final = 20
_ENDED_BADLY: Final = frozenset({JobStatus.FAILED, JobStatus.DEAD, JobStatus.CANCELLED})


def replace_lost_release(
    uow_factory: UnitOfWorkFactory, artifacts: ArtifactStore, settings: Settings
) -> None:
    """Start a renewal if the files of the live release are gone and no job is open.

    A batch of deletions trains without the lost weights, so that a waiting batch comes first. A
    renewal that failed is repeated after a back-off.
    """
    with uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        release = None if live is None else uow.releases.get(live)
        if release is None or uow.jobs.open_job() is not None or uow.requests.any_waiting():
            return
    if artifacts.exists(release.path):
        return
    with uow_factory() as uow:
        if uow.releases.alias().live != live or _must_wait(uow, settings):
            return
        seed = len(_failed_in_a_row(uow))
        values: dict[str, Any] = {
            "reason": RenewalReason.RESTORED.value,
            "seed": seed,
            "preemptions": 0,
        }
        try:
            job = job_lifecycle.start_training(uow, JobKind.RENEW, values)
        except (JobRunningError, NothingToTrainError, RestoringError) as error:
            log.warning("lost_release_not_replaced", release=live, code=error.code)
            return
    log.warning("lost_release_replaced", release=live, job=job.id)


def _must_wait(uow: UnitOfWork, settings: Settings) -> bool:
    failed = _failed_in_a_row(uow)
    if not failed or failed[0].finished_at is None:
        return False
    delay = timedelta(seconds=back_off(settings.retry_delay, len(failed)))
    return uow.state.now() < failed[0].finished_at + delay


def _failed_in_a_row(uow: UnitOfWork) -> list[Job]:
    """Return the newest jobs, newest first, up to the last that replaced a release."""
    failed: list[Job] = []
    for job in uow.jobs.page(_RECENT_JOBS, None):
        if job.kind is not JobKind.RENEW or job.status not in _ENDED_BADLY:
            break
        failed.append(job)
    return failed
