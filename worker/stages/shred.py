"""Shredding: unlink every artefact that could bring the forgotten data back.

What goes is written down before it goes, so that a crash in between loses no digest; doing it
again finds less to do. Files are unlinked only after their last reader is gone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from app.domain.jobs import Stage
from app.domain.releases import ReleaseStatus
from app.services import job_lifecycle
from worker.stages.roll_out import wait_until_confirmed

if TYPE_CHECKING:
    from app.domain.releases import Release
    from worker.run import JobRun


def clear_lower_epochs(run: JobRun) -> None:
    """Note and unlink what earlier, dead claims of this job left in staging."""
    _note(run, _staged(run))
    run.context.artifacts.remove_staging(run.job.id, run.lease.epoch)


def shred(run: JobRun) -> None:
    """Unlink all releases but the live one, all staging of the job, and scrub the database."""
    run.begin(Stage.SHRED)
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        unshredded = uow.releases.unshredded()
    if live is not None:
        wait_until_confirmed(run, live)
    doomed = [release for release in unshredded if release.id != live]
    _note(run, _staged(run) | {release.path: release.digest for release in doomed})
    # A claim that died between moving its weights and writing their row left no row behind.
    kept = {release.path for release in unshredded if release.id == live}
    for path in sorted({release.path for release in doomed} | set(store.published()) - kept):
        run.check()
        _note(run, store.remove(path))
    _note(run, store.remove_staging(run.job.id) | store.remove_incoming())
    _mark_shredded(run, doomed)
    run.advance(metrics={"scrubbed": run.context.scrub_database()})


def _staged(run: JobRun) -> dict[str, str]:
    """Return path → SHA-256 of every file that any claim of this job has in staging."""
    directory = run.staging.parent
    digests = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        digests[f"staging/{run.job.id}/{file.relative_to(directory).as_posix()}"] = digest
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
