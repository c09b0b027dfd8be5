"""The worker's own row, kept fresh while the process is up, so that others know of it."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Self

import structlog

from app.domain.errors import LetheError

if TYPE_CHECKING:
    from types import TracebackType

    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


class Presence:
    """Beats from its own thread: a long job must not make its worker look dead."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._ttl = context.settings.job_lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        try:
            with self._context.uow_factory() as uow:
                uow.workers.remove(self._context.worker_id)
        except LetheError as failure:
            log.warning("presence_not_removed", error=type(failure).__name__)

    def _keep(self) -> None:
        while not self._stopped.wait(self._ttl / 3):
            self._beat()

    def _beat(self) -> None:
        try:
            with self._context.uow_factory() as uow:
                uow.workers.beat(
                    self._context.worker_id, socket.gethostname(), os.getpid(), self._ttl
                )
        except LetheError as failure:
            # The database is away; the row goes stale, which is then the truth.
            log.warning("presence_not_renewed", error=type(failure).__name__)
