"""The heartbeat that keeps a job's lease, and the worker's own knowledge of having lost it.

Losing a lease is harmless to the data (every write carries the epoch); noticing it early saves
work. The worker trusts its own monotonic clock: a lease that it could not renew in time is lost,
whatever the database might still say.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import structlog

from app.domain.errors import LeaseLostError, LetheError

if TYPE_CHECKING:
    from types import TracebackType

    from app.domain.jobs import Lease
    from app.storage.unit_of_work import UnitOfWorkFactory
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


class LeaseHeartbeat:
    """Renews one lease every third of its length, from its own thread and connection."""

    def __init__(
        self,
        uow_factory: UnitOfWorkFactory,
        lease: Lease,
        *,
        lease_seconds: float,
        claimed_at: float,
    ) -> None:
        """Start counting at `claimed_at`: `time.monotonic()` from *before* the claim was sent."""
        self.lost = threading.Event()
        self._uow_factory = uow_factory
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._valid_until = claimed_at + lease_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, name=f"heartbeat-{lease.job_id}-{lease.epoch}", daemon=True
        )

    def __enter__(self) -> Self:
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

    def check(self) -> None:
        """Raise LeaseLostError when the lease is, or must be presumed to be, lost."""
        if time.monotonic() >= self._valid_until:
            self.lost.set()
        if self.lost.is_set():
            raise LeaseLostError(job_id=self._lease.job_id, epoch=self._lease.epoch)

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 3):
            sent_at = time.monotonic()
            try:
                with self._uow_factory() as uow:
                    uow.jobs.renew(self._lease, self._lease_seconds)
            except LeaseLostError:
                self.lost.set()
                return
            except Exception as error:  # noqa: BLE001 # the database may come back in time
                log.warning("heartbeat_failed", job=self._lease.job_id, error=type(error).__name__)
            else:
                self._valid_until = sent_at + self._lease_seconds


log = structlog.get_logger(__name__)


class WorkerHeartbeat:
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
