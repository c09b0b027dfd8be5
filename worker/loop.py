"""Looking for work: the one function that Celery's task and the embedded loop both call."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError
from app.services import jobs as job_lifecycle
from app.services.jobs import close_batch
from worker.heartbeat import WorkerHeartbeat
from worker.pipeline import run_job
from worker.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Stage
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


def run_once(
    context: WorkerContext,
    *,
    stop: threading.Event | None = None,
    on_stage: Callable[[Stage], None] | None = None,
) -> bool:
    """Close the batch that is due, claim one job and work on it; False when there was none."""
    with context.uow_factory() as uow:
        swept = job_lifecycle.sweep(uow, context.settings)
        close_batch(uow, context.settings)
    if swept.abandoned:
        log.error("jobs_abandoned", jobs=swept.abandoned)
    # The worker's own clock starts before the database's, so that it never trusts a lease longer.
    claimed_at = time.monotonic()
    with context.uow_factory() as uow:
        claimed = job_lifecycle.claim(uow, context.worker_id, context.settings)
    if claimed is None:
        return False
    run_job(
        context,
        claimed,
        claimed_at,
        stop=stop or threading.Event(),
        on_stage=on_stage or _ignore,
    )
    return True


def run_forever(
    context: WorkerContext,
    stop: threading.Event,
    *,
    until_idle: bool = False,
    on_stage: Callable[[Stage], None] | None = None,
) -> None:
    """Look for work until told to stop, or, with `until_idle`, until there is none left.

    There is no broker here: the loop looks by itself, and the outbox is only marked as sent.
    """
    relay = Relay(context, _ignore)
    with WorkerHeartbeat(context):
        # A crash between a completion and its scrubbing leaves remains; a start clears them.
        _attempt(context.scrub_database)
        while not stop.is_set():
            _attempt(relay.turn)
            worked = _attempt(lambda: run_once(context, stop=stop, on_stage=on_stage))
            if worked:
                continue
            if until_idle and worked is False and _is_idle(context):
                return
            stop.wait(context.settings.poll_seconds)


def _attempt(action: Callable[[], object]) -> object:
    """Do it; where the database or a disk is away, return None: the next turn tries again."""
    try:
        return action()
    except (LetheError, OSError) as error:
        log.warning("worker_waits", error=type(error).__name__)
        return None


def _is_idle(context: WorkerContext) -> bool:
    """Say whether no job is open and no request waits for a batch."""
    with context.uow_factory() as uow:
        return uow.jobs.open_job() is None and not uow.requests.ready_for_batch(1)


def _ignore(_what: object) -> None:
    """Nothing to tell anybody."""
