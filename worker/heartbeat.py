"""Renew a job's lease and the worker's row, and sweep files, each from a thread of its own.

A lost lease does not endanger the data, because every write carries the lease's epoch. Noticing the
loss early saves work. The worker trusts its own monotonic clock: a lease that was not renewed in
time counts as lost, whatever the database holds.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import structlog

from app.domain.errors import LeaseLostError, LetheError
from worker.claim_files import sweep_files
from worker.failures import attempt
from worker.stray_files import remove_strays

if TYPE_CHECKING:
    from app.domain.jobs import Lease
    from app.storage.unit_of_work import UnitOfWorkFactory
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


class Heartbeat(ABC):
    """A context manager that calls `_beat` in a thread, three times per `lifetime` seconds."""

    def __init__(self, name: str, lifetime: float) -> None:
        self._lifetime = lifetime
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._lifetime / 3):
            self._beat()

    @abstractmethod
    def _beat(self) -> None: ...


class LeaseHeartbeat(Heartbeat):
    """Renews the lease of one job."""

    def __init__(
        self,
        uow_factory: UnitOfWorkFactory,
        lease: Lease,
        *,
        lease_seconds: float,
        claimed_at: float,
    ) -> None:
        """Take the time from before the claim was sent, `claimed_at`, by `time.monotonic()`."""
        super().__init__(f"heartbeat-{lease.job_id}-{lease.epoch}", lease_seconds)
        self.lost = threading.Event()
        #: Whether a renewal failed for another reason than a lost lease.
        self.had_errors = False
        self._uow_factory = uow_factory
        self._lease = lease
        self._valid_until = claimed_at + lease_seconds

    def check(self) -> None:
        """Raise LeaseLostError if the lease is lost or was not renewed in time."""
        if time.monotonic() >= self._valid_until:
            self.lost.set()
        if self.lost.is_set():
            raise LeaseLostError(job_id=self._lease.job_id, epoch=self._lease.epoch)

    def _beat(self) -> None:
        sent_at = time.monotonic()
        try:
            with self._uow_factory.lease() as uow:
                uow.jobs.renew(self._lease, self._lifetime)
        except LeaseLostError:
            self.lost.set()
            self._stopped.set()
        except Exception as error:  # noqa: BLE001 # the database may be available again in time
            self.had_errors = True
            log.warning("heartbeat_failed", job=self._lease.job_id, error=type(error).__name__)
        else:
            self._valid_until = sent_at + self._lifetime


class WorkerHeartbeat(Heartbeat):
    """Renews the worker's row, also during a long job, and removes the row at the end."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__("worker-heartbeat", context.settings.job_lease)
        self._context = context

    def __enter__(self) -> Self:
        self._beat()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        try:
            with self._context.uow_factory() as uow:
                uow.workers.remove(self._context.worker_id)
        except LetheError as failure:
            log.warning("worker_row_not_removed", error=type(failure).__name__)

    def _beat(self) -> None:
        try:
            with self._context.uow_factory.lease() as uow:
                uow.workers.beat(
                    self._context.worker_id, socket.gethostname(), os.getpid(), self._lifetime
                )
        except LetheError as failure:
            # Without the database, the row expires and the worker counts as gone.
            log.warning("worker_row_not_renewed", error=type(failure).__name__)


class FileSweeper(Heartbeat):
    """Sweeps the files of this machine, also during a long job and while no job wakes the worker.

    The relay may run on another machine, and no other process may run on this one.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__("file-sweeper", context.settings.job_lease)
        self._context = context

    def __enter__(self) -> Self:
        self._beat()
        return super().__enter__()

    def _beat(self) -> None:
        context = self._context
        attempt(lambda: sweep_files(context.uow_factory, context.artifacts), "files_not_swept")
        attempt(lambda: remove_strays(context.uow_factory, context.artifacts), "strays_not_removed")
