"""Look for jobs and work on them, as a Celery task (`run_once`) or without a broker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError
from app.services import jobs as job_lifecycle
from worker.heartbeat import WorkerHeartbeat
from worker.pipeline import run_job
from worker.relay import Relay, close_due_batch, sweep_jobs

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
    """Close the batch that is due, claim one job and work on it; return False if there is none."""
    sweep_jobs(context.uow_factory, context.settings)
    close_due_batch(context.uow_factory, context.settings)
    # Before the claim, so that the worker never counts on a longer lease than the database.
    claimed_at = time.monotonic()
    with context.uow_factory() as uow:
        claimed = job_lifecycle.claim(uow, context.worker_id, context.settings)
    if claimed is None:
        return False
    job, lease = claimed
    run_job(
        context,
        job,
        lease,
        claimed_at=claimed_at,
        stop=stop or threading.Event(),
        on_stage=on_stage or _do_nothing,
    )
    return True


def run_forever(
    context: WorkerContext,
    stop: threading.Event,
    *,
    until_idle: bool = False,
    on_stage: Callable[[Stage], None] | None = None,
) -> None:
    """Work until `stop` is set or, with `until_idle`, until no job is left.

    Without a broker, the loop itself looks for work, so messages in the outbox are only marked as
    sent.
    """
    relay = Relay(context.settings, context.uow_factory, context.artifacts, _do_nothing)
    with WorkerHeartbeat(context):
        # A crash between the completion of a deletion and the last scrub leaves remains.
        _attempt(context.scrub_database)
        while not stop.is_set():
            _attempt(relay.turn)
            has_worked = _attempt(lambda: run_once(context, stop=stop, on_stage=on_stage))
            if has_worked:
                continue
            if until_idle and has_worked is False and _is_idle(context):
                return
            stop.wait(context.settings.poll_seconds)


def _attempt(action: Callable[[], object]) -> object:
    """Return the action's result, or None if the database or a disk is away."""
    try:
        return action()
    except (LetheError, OSError) as error:
        log.warning("worker_waits", error=type(error).__name__)
        return None


def _is_idle(context: WorkerContext) -> bool:
    """Return whether no job is open and no request waits for a batch or a retry."""
    with context.uow_factory() as uow:
        return uow.jobs.open_job() is None and not uow.requests.any_waiting()


def _do_nothing(_argument: object) -> None: ...
