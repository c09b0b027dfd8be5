"""Let deletions interrupt the renewal that this process works on.

Without a broker, the worker itself schedules jobs, but the worker is busy with the renewal. With a
broker, the relay schedules as well, which does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError
from worker.heartbeat import Heartbeat
from worker.relay import schedule_job

if TYPE_CHECKING:
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


class Preemption(Heartbeat):
    """Schedules jobs during a renewal, every `LETHE_POLL_SECONDS`."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__("preemption", 3 * context.settings.poll_seconds)
        self._context = context

    def _beat(self) -> None:
        try:
            schedule_job(self._context.uow_factory, self._context.settings)
        except LetheError as failure:
            log.warning("job_not_scheduled", error=type(failure).__name__)
