"""The relay: wake-ups from the outbox to the broker, and the sweeper for what got lost.

Everything here may be done twice, or by several relays at once: a wake-up only says "look".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from app.domain.errors import LetheError
from app.services import jobs as job_lifecycle
from app.services.jobs import close_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWorkFactory

log = structlog.get_logger(__name__)

_DISPATCH_LIMIT: Final = 100
#: For how long sent wake-ups, replicas that are gone, and idempotency keys are kept, in seconds.
_KEEP_SENT: Final = 3_600.0
_KEEP_REPLICAS: Final = 3_600.0
_KEEP_IDEMPOTENCY_KEYS: Final = 7 * 86_400.0
_HOUSEKEEPING_EVERY: Final = 60.0


class RelayContext(Protocol):
    """What a relay needs; a WorkerContext has it, and more."""

    @property
    def settings(self) -> Settings: ...
    @property
    def uow_factory(self) -> UnitOfWorkFactory: ...
    @property
    def artifacts(self) -> ArtifactStore: ...


class Relay:
    """Hands wake-ups to `send`, which takes the id of what to look at."""

    def __init__(self, context: RelayContext, send: Callable[[str], None]) -> None:
        self._context = context
        self._send = send
        self._sweep_every = context.settings.job_lease / 3
        self._swept_at = self._kept_house_at = float("-inf")

    def turn(self) -> None:
        """Do all that is due now."""
        now = time.monotonic()
        self._close_batch()
        if now - self._swept_at >= self._sweep_every:
            self._swept_at = now
            self.sweep()
        if now - self._kept_house_at >= _HOUSEKEEPING_EVERY:
            self._kept_house_at = now
            self._keep_house()
        self.dispatch()

    def dispatch(self) -> int:
        """Send what the outbox owes; return how many wake-ups that were.

        Sent before it is marked: a broker that is away raises, and the rows stay owed.
        """
        with self._context.uow_factory() as uow:
            pending = uow.outbox.pending(_DISPATCH_LIMIT)
            for entity_id in dict.fromkeys(entity_id for _, _, entity_id in pending):
                self._send(entity_id)
            if pending:
                uow.outbox.mark_sent([outbox_id for outbox_id, _, _ in pending])
        return len(pending)

    def sweep(self) -> None:
        """Wake somebody for jobs that nobody holds, and unlink what ended jobs left in staging.

        A claim that was frozen may write into its old directory long after its job has ended, so
        staging is looked at again and again, not once.
        """
        with self._context.uow_factory() as uow:
            swept = job_lifecycle.sweep(uow, self._context.settings)
        if swept.abandoned:
            log.error("jobs_abandoned", jobs=swept.abandoned)
        for job_id in self._context.artifacts.staged_jobs():
            with self._context.uow_factory(write=False) as uow:
                ended = job_lifecycle.has_ended(uow, job_id)
            if ended:
                self._context.artifacts.remove_staging(job_id)

    def _close_batch(self) -> None:
        with self._context.uow_factory() as uow:
            job = close_batch(uow, self._context.settings)
        if job is not None:
            log.info("batch_closed", job=job.id)

    def _keep_house(self) -> None:
        with self._context.uow_factory() as uow:
            uow.outbox.prune(_KEEP_SENT)
            uow.replicas.remove_expired(_KEEP_REPLICAS)
            uow.idempotency.prune(_KEEP_IDEMPOTENCY_KEYS)


def run_relay(context: RelayContext, send: Callable[[str], None], stop: Event) -> None:
    """Relay until told to stop; neither the database nor the broker being away ends it."""
    relay = Relay(context, send)
    while not stop.is_set():
        try:
            relay.turn()
        except (LetheError, OSError) as error:
            log.warning("relay_waits", error=type(error).__name__)
        stop.wait(context.settings.poll_seconds)
