"""Celery's tasks: thin, and with an opaque id as their only argument."""

from __future__ import annotations

import structlog

from app.domain.errors import UnavailableError
from worker.celery_app import celery_app
from worker.loop import run_once
from worker.runtime import runtime

log = structlog.get_logger(__name__)


@celery_app.task(name="lethe.wake")  # type: ignore[untyped-decorator] # celery ships no types
def wake(entity_id: str) -> None:
    """Look for work. The id says only why; what there is to do is in the database."""
    log.info("woken", entity=entity_id)
    try:
        while not runtime.stop.is_set() and run_once(runtime.context, stop=runtime.stop):
            pass
    except UnavailableError as error:
        # The relay's sweeper wakes somebody again once the database is back.
        log.warning("worker_waits", error=type(error).__name__)
