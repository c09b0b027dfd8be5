"""Shredding: unlink every artefact that could bring the forgotten data back.

What goes is written down before it goes, so that a crash in between loses no digest; doing it
again finds less to do. Files are unlinked only after their last reader is gone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from app.domain.jobs import Stage
from app.domain.releases import ReleaseStatus
from app.services import jobs as job_lifecycle
from worker.stages.roll_out import wait_until_confirmed

if TYPE_CHECKING:
    from app.domain.releases import Release
    from worker.run import JobRun


def clear_lower_epochs(run: JobRun) -> None:
    """Note and unlink what earlier, dead claims of this job left in staging."""
    _note(run, _staged(run, run.job.id))
    run.context.artifacts.remove_staging(run.job.id, run.lease.epoch)


def shred(run: JobRun) -> None:
    """Unlink all releases but the live one and all that is staged, and scrub the database."""
    run.begin(Stage.SHRED)
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        unshredded = uow.releases.unshredded()
    if live is not None:
        wait_until_confirmed(run, live)
    doomed = [release for release in unshredded if release.id != live]
    _note(run, {release.path: release.digest for release in doomed})
    # A claim that died between moving its weights and writing their row left no row behind.
    kept = {release.path for release in unshredded if release.id == live}
    for path in sorted({release.path for release in doomed} | set(store.published()) - kept):
        run.check()
        _note(run, store.remove(path))
    _clear_adapters(run, live)
    _clear_staging(run)
    _note(run, store.remove_incoming())
    _mark_shredded(run, doomed)
    run.advance(metrics={"scrubbed": run.context.scrub_database()})


def _clear_adapters(run: JobRun, live: str | None) -> None:
    """Unlink what serving engines were given of any other release: it would bring that back.

    Gateways remove it themselves, but one may have died over it. This comes after the releases:
    whoever writes such a copy looks afterwards whether its release is still there.
    """
    store = run.context.artifacts
    for release_id in store.adapters():
        run.check()
        if release_id != live:
            _note(run, store.remove(store.adapter_path(release_id)))


def _clear_staging(run: JobRun) -> None:
    """Unlink what this job staged, and what jobs that ended without clearing up left there.

    A worker that is killed right after its job has failed leaves weights that still know whom this
    job forgets. No other job is open now, so nobody needs any of it.
    """
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        ended = [name for name in store.staged_jobs() if job_lifecycle.has_ended(uow, name)]
    for job_id in (run.job.id, *ended):
        run.check()
        _note(run, _staged(run, job_id))
        store.remove_staging(job_id)


def _staged(run: JobRun, job_id: str) -> dict[str, str]:
    """Return path → SHA-256 of every file that any claim of the job has in staging."""
    directory = run.staging.parents[1] / job_id
    digests = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        digests[f"staging/{job_id}/{file.relative_to(directory).as_posix()}"] = digest
    return digests


def _note(run: JobRun, digests: dict[str, str]) -> None:
    known = run.job.metrics.get("shredded", {})
    if digests.keys() - known.keys():
        run.advance(metrics={"shredded": {**known, **digests}})


def _mark_shredded(run: JobRun, doomed: list[Release]) -> None:
    with run.writing() as uow:
        job_lifecycle.advance(uow, run.lease)
        now = uow.state.now()
        for release in doomed:
            uow.releases.update(release.id, status=ReleaseStatus.SHREDDED, shredded_at=now)
