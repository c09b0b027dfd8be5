"""Publishing weights and rolling them out: replicas prepare, the alias flips, replicas confirm."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.identifiers import release_id
from app.domain.jobs import Stage
from app.domain.releases import Release, ReleaseStatus
from app.services import rollout
from worker.errors import RollOutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.releases import Replica
    from worker.run import JobRun
    from worker.stages.build import Built

log = structlog.get_logger(__name__)

#: How often the replicas' rows are looked at, in seconds.
_LOOK_EVERY: Final = 0.1


def publish(run: JobRun, built: Built, parent: Release | None) -> None:
    """Move the weights to their place and write their row: a candidate, served by nobody yet."""
    run.begin(Stage.PUBLISH)
    name = release_id(built.artifact.digest)
    path = run.context.artifacts.release_path(name)
    run.check()  # A claim that was frozen here must not move anything any more.
    run.context.artifacts.publish(built.artifact.directory, path)
    with run.writing() as uow:
        rollout.publish(
            uow,
            run.lease,
            Release(
                id=name,
                digest=built.artifact.digest,
                parent=parent.id if parent else None,
                job_id=run.job.id,
                status=ReleaseStatus.CANDIDATE,
                method=built.artifact.method,
                outcome=built.outcome,
                path=path,
                metrics={"training": built.artifact.metrics, "audit": built.figures},
                error_budget_spent=built.error_budget_spent,
                created_at=uow.state.now(),
            ),
        )
        # An escalated job says what it ended with.
        uow.jobs.update(run.lease, method=built.artifact.method)
    run.job = run.job.evolve(release=name, method=built.artifact.method)


def roll_out(run: JobRun, name: str) -> None:
    """Return once every live replica answers from the release; laggards are counted out."""
    run.begin(Stage.ROLL_OUT)
    with run.writing() as uow:
        rollout.start_rollout(uow, run.lease, name)
    lagging = _wait(run, lambda replicas: rollout.unprepared(replicas, name), limited=True)
    _refuse_broken(run, name, lagging)
    with run.writing() as uow:
        flipped = rollout.flip(uow, run.lease, name)
    if not flipped:
        raise RollOutError(release_id=name, reason="the alias was moved by somebody else")
    wait_until_confirmed(run, name)


def wait_until_confirmed(run: JobRun, name: str) -> None:
    """Wait until no replica that may still answer serves anything else.

    After the time-out the laggards are fenced: they cannot renew, and their leases, with the
    margin, run out by the database's clock.
    """
    with run.context.uow_factory(write=False) as uow:
        release = uow.releases.get(name)
    live_at = release.live_at if release is not None else None

    def unconfirmed(replicas: list[Replica]) -> list[Replica]:
        return rollout.unconfirmed(replicas, name, live_at)

    lagging = _wait(run, unconfirmed, limited=True)
    if lagging:
        log.warning("replicas_fenced", job=run.job.id, replicas=[r.id for r in lagging])
        with run.writing() as uow:
            rollout.fence(uow, run.lease, [replica.id for replica in lagging])
    _wait(run, unconfirmed, limited=False)


def _wait(
    run: JobRun, select: Callable[[list[Replica]], list[Replica]], *, limited: bool
) -> list[Replica]:
    """Wait until no live replica is selected, or the time is over; return those that are left."""
    settings = run.context.settings
    deadline = time.monotonic() + settings.rollout_timeout
    while True:
        with run.context.uow_factory(write=False) as uow:
            left = select(uow.replicas.live(settings.replica_margin))
        if not left or (limited and time.monotonic() >= deadline):
            return left
        run.wait(_LOOK_EVERY)


def _refuse_broken(run: JobRun, name: str, lagging: list[Replica]) -> None:
    """Raise where every live replica says that it cannot load the release.

    A laggard is left behind by the flip; but if nobody at all could serve afterwards, flipping
    would end the service.
    """
    with run.context.uow_factory(write=False) as uow:
        live = uow.replicas.live(run.context.settings.replica_margin)
        already_live = uow.releases.alias().live == name
    broken = {replica.id for replica in lagging if replica.problem}
    if live and not already_live and all(replica.id in broken for replica in live):
        raise RollOutError(release_id=name, reason="no replica could load it")
