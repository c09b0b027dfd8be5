"""Unlink every artifact from which forgotten data could be recovered.

The digests of files are recorded before the files are unlinked, so that a crash loses none of them
and the stage can be repeated. Files are unlinked after their last reader has stopped reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.jobs import Stage
from app.domain.releases import ReleaseStatus
from app.services import jobs as job_lifecycle
from app.storage import file_trees
from worker.claim_files import owe_claims, owe_copies, owe_unrecorded
from worker.scrubbing import erase_owed
from worker.stages.roll_out import wait_until_confirmed

if TYPE_CHECKING:
    from app.domain.jobs import JobClaim
    from app.domain.releases import Release
    from app.storage.unit_of_work import UnitOfWork
    from worker.job_run import JobRun

#: The wait for transactions that can still read deleted rows, in seconds.
_READER_SECONDS: Final = 10.0


def clear_lower_epochs(run: JobRun) -> None:
    """Record and unlink the staging files of this job's earlier claims."""
    _adopt_claims(run, run.job.id)
    _record(run, _staged_digests(run, run.job.id))
    run.context.artifacts.remove_staging(run.job.id, run.lease.epoch)


def shred(run: JobRun) -> None:
    """Unlink all releases but the live one and all staging files, and scrub the database."""
    run.begin(Stage.SHRED)
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        live = uow.releases.alias().live
        unshredded = uow.releases.unshredded()
    if live is not None:
        wait_until_confirmed(run, live)
    run.stop_reading()
    old_releases = [release for release in unshredded if release.id != live]
    _record(run, {release.path: release.digest for release in old_releases})
    _clear_staging(run)
    # The processes of these claims have ended before the published files are listed, so that no
    # file of theirs can appear later.
    ended, remaining = _end_claims(run)
    # A claim that died between moving its weights and writing their row left files without a row.
    live_paths = {release.path for release in unshredded if release.id == live}
    old_paths = {release.path for release in old_releases}
    for path in sorted(old_paths | set(store.published()) - live_paths):
        run.check()
        _record(run, store.remove(path))
    _clear_adapters(run, live)
    run.check()  # The call below would remove a publication of a later claim.
    _record(run, store.remove_incoming(with_publications=True))
    _record(run, store.evict_all())
    with run.writing() as uow:
        job_lifecycle.advance(uow, run.lease)
        _mark_shredded(uow, old_releases)
        for claim in ended:
            uow.job_claims.end(claim.job_id, claim.epoch)
        owe_claims(uow, run.job.id, remaining)
        owe_copies(uow, run.job.id, store, set(store.copies()) - live_paths)
        if not run.context.database.is_sqlite:
            # SQLite's installations have one machine, which `_clear_staging` has cleared.
            owe_unrecorded(uow, run.lease)
    # What readers keep from being erased stays owed, and the sweepers retry.
    erase_owed(
        run.context.uow_factory, erase=run.context.erase_remains, wait_seconds=_READER_SECONDS
    )


def _end_claims(run: JobRun) -> tuple[list[JobClaim], list[JobClaim]]:
    """Return the claims that have no file and no process left, and all other claims.

    The latter are of other machines, or of suspended processes of this machine.
    """
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        claims = uow.job_claims.unended()
    ended: list[JobClaim] = []
    remaining: list[JobClaim] = []
    for claim in claims:
        if (claim.job_id, claim.epoch) == (run.lease.job_id, run.lease.epoch):
            continue
        run.check()
        is_here = claim.machine == store.machine
        has_ended = is_here and store.end_claim(claim.job_id, claim.epoch)
        (ended if has_ended else remaining).append(claim)
    return ended, remaining


def _clear_adapters(run: JobRun, live: str | None) -> None:
    """Unlink the adapters that serving engines read, except the live release's adapter.

    Gateways delete these files themselves, but a gateway that died could not. Call this function
    after the releases are unlinked: a gateway that is writing an adapter checks afterwards whether
    the release exists, and deletes the adapter if not.
    """
    store = run.context.artifacts
    for release_id in store.adapters():
        run.check()
        if release_id != live:
            _record(run, store.remove(store.adapter_path(release_id)))


def _clear_staging(run: JobRun) -> None:
    """Unlink the staging files of this job and of all ended jobs.

    A worker that is killed right after its job has failed leaves weights that were trained on the
    forgotten rows. No other job is open now, so no process needs these files.
    """
    store = run.context.artifacts
    with run.context.uow_factory(write=False) as uow:
        ended_jobs = [
            job_id for job_id in store.staged_jobs() if job_lifecycle.has_ended(uow, job_id)
        ]
    for job_id in (run.job.id, *ended_jobs):
        run.check()
        _adopt_claims(run, job_id)
        _record(run, _staged_digests(run, job_id))
        store.remove_staging(job_id)


def _adopt_claims(run: JobRun, job_id: str) -> None:
    """Record this machine for claims that have files here and, of earlier versions, no row."""
    store = run.context.artifacts
    with run.writing() as uow:
        for epoch in store.staged_epochs(job_id):
            uow.job_claims.add(job_id, epoch, store.machine)


def _staged_digests(run: JobRun, job_id: str) -> dict[str, str]:
    """Return path → SHA-256 of every staging file of the job, of all its claims."""
    directory = run.staging.parents[1] / job_id
    return {
        f"staging/{job_id}/{name}": sha256 for name, sha256 in file_trees.digests(directory).items()
    }


def _record(run: JobRun, digests: dict[str, str]) -> None:
    """Add digests to the job's metric `shredded`, which the certificate lists."""
    recorded = run.job.metrics.get("shredded", {})
    if digests.keys() - recorded.keys():
        run.advance(metrics={"shredded": {**recorded, **digests}})


def _mark_shredded(uow: UnitOfWork, releases: list[Release]) -> None:
    now = uow.state.now()
    for release in releases:
        uow.releases.update(release.id, status=ReleaseStatus.SHREDDED, shredded_at=now)
