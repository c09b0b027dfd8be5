"""Send wake-up messages from the outbox to the broker, and sweep up after lost messages.

A wake-up message only means "look for work", so every action here may be repeated, and several
relays may run at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import LedgerAheadError, LedgerUnavailableError, LetheError
from app.services import jobs as job_lifecycle
from app.services.change_log import ChangeLogPruning
from app.services.exactness import adopt_earlier_completions
from app.services.renewals import schedule
from app.services.restore import reconcile_installation, require_current
from app.services.scrubs import wake_for_certificates
from worker.cancelled import remove_cancelled_releases
from worker.claim_files import sweep_files
from worker.failures import attempt
from worker.lost_release import replace_lost_release
from worker.scrubbing import erase_owed
from worker.stray_files import remove_strays

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from app.storage.unit_of_work import UnitOfWorkFactory

log = structlog.get_logger(__name__)

#: Maximum number of messages per turn.
_DISPATCH_LIMIT: Final = 100
#: Retention of sent messages, expired replicas and idempotency keys, in seconds.
_KEEP_SENT: Final = 3_600.0
_KEEP_REPLICAS: Final = 3_600.0
_KEEP_IDEMPOTENCY_KEYS: Final = 7 * 86_400.0
_PRUNE_INTERVAL: Final = 60.0


def sweep_jobs(uow_factory: UnitOfWorkFactory, settings: Settings) -> None:
    """Abandon jobs without attempts left, and write wake-up messages for claimable jobs."""
    with uow_factory() as uow:
        swept = job_lifecycle.sweep(uow, settings)
    if swept.abandoned:
        log.error("jobs_abandoned", jobs=swept.abandoned)


def follow_ledger(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, settings: Settings
) -> None:
    """Apply ledger entries that the database lacks. Raises LedgerDamagedError.

    While the ledger is away, work continues: no deletion can be accepted or completed meanwhile.
    """
    try:
        reconcile_installation(uow_factory, pseudonyms, settings)
    except LedgerUnavailableError:
        log.warning("ledger_not_compared")


def schedule_job(
    uow_factory: UnitOfWorkFactory, settings: Settings, pseudonyms: Pseudonyms | None = None
) -> None:
    """Create the job that is due: a batch of deletion requests or a renewal.

    A renewal that is interrupted for the batch stops at its worker's next write. The database may
    have been restored since the last sweep. Then the ledger is applied instead.
    """
    try:
        with uow_factory() as uow:
            job = schedule(uow, settings)
            if job is not None:
                require_current(uow, uow_factory.ledger)
    except LedgerAheadError:
        if pseudonyms is not None:
            follow_ledger(uow_factory, pseudonyms, settings)
        return
    if job is not None:
        log.info("job_scheduled", job=job.id, kind=job.kind.value, reason=job.renewal_reason)


class Relay:
    """Calls `send` with the id of the job or request of each message in the outbox."""

    def __init__(
        self,
        settings: Settings,
        uow_factory: UnitOfWorkFactory,
        artifacts: ArtifactStore,
        send: Callable[[str], None],
        *,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        """Take the keyed hashes of a process that also compares the database with the ledger."""
        self._pseudonyms = pseudonyms
        self._settings = settings
        self._uow_factory = uow_factory
        self._artifacts = artifacts
        self._send = send
        self._change_log = ChangeLogPruning(uow_factory, settings)
        self._swept_at = self._pruned_at = float("-inf")

    def turn(self) -> None:
        """Do everything that is due: schedule a job, sweep, prune, dispatch."""
        now = time.monotonic()
        if now - self._swept_at >= self._settings.job_lease / 3:
            self._swept_at = now
            self.sweep()
        schedule_job(self._uow_factory, self._settings, self._pseudonyms)
        if now - self._pruned_at >= _PRUNE_INTERVAL:
            self._pruned_at = now
            self._prune()
            self._change_log.turn(now)
        self._dispatch()

    def run(self, stop: Event) -> None:
        """Repeat `turn` until `stop` is set, also while the database or the broker is away."""
        while not stop.is_set():
            try:
                self.turn()
            except (LetheError, OSError) as error:
                log.warning("relay_waits", error=type(error).__name__)
            stop.wait(self._settings.poll_seconds)

    def sweep(self) -> None:
        """Sweep the jobs and the files of claims on this machine, and carry out owed erasures."""
        if self._pseudonyms is not None:
            follow_ledger(self._uow_factory, self._pseudonyms, self._settings)
        sweep_jobs(self._uow_factory, self._settings)
        # A file that cannot be unlinked does not delay the erasures of the database.
        attempt(lambda: sweep_files(self._uow_factory, self._artifacts), "files_not_swept")
        attempt(
            lambda: remove_cancelled_releases(self._uow_factory, self._artifacts),
            "cancelled_releases_not_removed",
        )
        attempt(lambda: remove_strays(self._uow_factory, self._artifacts), "strays_not_removed")
        replace_lost_release(self._uow_factory, self._artifacts, self._settings)
        erase_owed(self._uow_factory)
        with self._uow_factory() as uow:
            adopt_earlier_completions(uow, self._settings)
            wake_for_certificates(uow)

    def _dispatch(self) -> None:
        """Send the pending messages, then mark them as sent.

        If the broker is away, `send` raises and the messages stay pending.
        """
        with self._uow_factory() as uow:
            pending = uow.outbox.pending(_DISPATCH_LIMIT)
            for entity_id in dict.fromkeys(entity_id for _, _, entity_id in pending):
                self._send(entity_id)
            if pending:
                uow.outbox.mark_sent([outbox_id for outbox_id, _, _ in pending])

    def _prune(self) -> None:
        with self._uow_factory() as uow:
            uow.outbox.prune(_KEEP_SENT)
            uow.replicas.remove_expired(_KEEP_REPLICAS)
            uow.idempotency.prune(_KEEP_IDEMPOTENCY_KEYS)
            uow.forget_lists.forget_keys(_KEEP_IDEMPOTENCY_KEYS)
