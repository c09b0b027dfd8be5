"""Look for jobs and work on them, as a Celery task (`run_once`) or without a broker."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError
from app.services.renewals import is_renewal_due
from worker.claim_files import claim_with_lock, sweep_files
from worker.failures import attempt
from worker.heartbeat import WorkerHeartbeat
from worker.ledger_checkpoints import write_checkpoint
from worker.pipeline import run_job
from worker.preemption import Preemption
from worker.relay import Relay, follow_ledger, schedule_job, sweep_jobs
from worker.scrubbing import certify_owed

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
    """Issue owed certificates, schedule the job that is due, claim one job and work on it.

    Return False if no job waits.
    """
    follow_ledger(context.uow_factory, context.pseudonyms, context.settings)
    sweep_jobs(context.uow_factory, context.settings)
    certify_owed(context)
    write_checkpoint(context)
    schedule_job(context.uow_factory, context.settings, context.pseudonyms)
    # Before the claim, so that the worker never counts on a longer lease than the database.
    claimed_at = time.monotonic()
    with ExitStack() as lock:
        with context.uow_factory() as uow:
            claimed = claim_with_lock(uow, context, lock)
        if claimed is None:
            return False
        job, lease = claimed
        if job.renewal_reason is not None:
            lock.enter_context(Preemption(context))
        run_job(
            context,
            job,
            lease,
            claimed_at=claimed_at,
            stop=stop or threading.Event(),
            on_stage=on_stage or _do_nothing,
        )
    write_checkpoint(context, at_once=True)
    attempt(lambda: sweep_files(context.uow_factory, context.artifacts), "files_not_swept")
    return True


def run_forever(
    context: WorkerContext,
    stop: threading.Event,
    *,
    until_idle: bool = False,
    on_stage: Callable[[Stage], None] | None = None,
) -> None:
    """Work until `stop` is set or, with `until_idle`, until no job is left.

    A renewal that is due now is a job that is left. A renewal that is due later, or that waits
    after a failure or a cancel, is none.

    Without a broker, the loop itself looks for work, so messages in the outbox are only marked as
    sent.
    """
    relay = Relay(
        context.settings,
        context.uow_factory,
        context.artifacts,
        _do_nothing,
        pseudonyms=context.pseudonyms,
    )
    with WorkerHeartbeat(context):
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
    """Return whether no job is open, no request waits for a batch or a retry, no renewal is due."""
    with context.uow_factory() as uow:
        return (
            uow.jobs.open_job() is None
            and not uow.requests.any_waiting()
            and not is_renewal_due(uow, context.settings)
        )


def _do_nothing(_argument: object) -> None: ...
