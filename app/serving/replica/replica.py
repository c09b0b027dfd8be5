"""Run this gateway process as a replica: renew a lease, follow the alias, confirm releases.

One thread renews the lease and steps the release switch. Releases are loaded on another thread, so
that a long load does not cost the lease. A third thread keeps the first stage's statistics up to
date. Each renewal reports the replica's state to the database; a changed state is reported at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import (
    DatabaseUnavailableError,
    LedgerDamagedError,
)
from app.domain.identifiers import new_id
from app.services.replicas import (
    ReplicaState,
    deregister_replica,
    register_replica,
    renew_replica,
)
from app.serving.replica.answer_lease import AnswerLease
from app.serving.replica.release_switch import ReleaseSwitch
from app.serving.replica.restore_watch import RestoreWatch
from app.tracebacks import error_location

if TYPE_CHECKING:
    from app.domain.releases import Alias
    from app.services.pseudonyms import Pseudonyms
    from app.serving.replica.live_model import LiveModelReference
    from app.serving.replica.release_loader import ReleaseLoader
    from app.serving.retrieval.first_stage import FirstStage
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

_log = structlog.get_logger(__name__)
_RENEWALS_PER_LEASE: Final = 3
#: Time between two sweeps of the cache of downloaded releases, in seconds.
_SWEEP_SECONDS: Final = 60.0


class Replica:
    """Keep this process registered and up to date between `start` and `stop`."""

    def __init__(
        self,
        settings: Settings,
        uow: UnitOfWorkFactory,
        loader: ReleaseLoader,
        first_stage: FirstStage,
        pseudonyms: Pseudonyms,
    ) -> None:
        """Create the threads; `start` starts them."""
        self._ttl = settings.replica_ttl
        self.answer_lease = AnswerLease(settings)
        self._uow = uow
        self.first_stage = first_stage
        self._restore_watch = RestoreWatch(uow, pseudonyms, settings)
        self._renew_seconds = self._ttl / _RENEWALS_PER_LEASE
        self._poll_seconds = min(settings.poll_seconds, self._renew_seconds)
        self._wake = threading.Event()
        self._data_changed = threading.Event()
        self._stopping = threading.Event()
        self._backend = loader.backend
        self._scorer = settings.scorer
        self._load_executor = ThreadPoolExecutor(1, thread_name_prefix="lethe-load")
        self._release_switch = ReleaseSwitch(
            uow,
            loader,
            self._load_executor,
            drain_timeout=settings.drain_timeout,
            retry_seconds=self._ttl,
            wake=self.wake,
        )
        first_stage.watch(self.forget)
        self._thread = threading.Thread(target=self._run, name="lethe-replica", daemon=True)
        self._sweeper = threading.Thread(target=self._sweep_cache, name="lethe-sweep", daemon=True)
        self._clear_cache = loader.clear_cache
        self._follower = threading.Thread(
            target=self._follow_change_log, name="lethe-follow", daemon=True
        )
        self._id: str | None = None
        self._reported = ReplicaState()
        self._renewed_at = float("-inf")
        self._is_database_up = False

    @property
    def id(self) -> str | None:
        """Return the id of the current registration."""
        return self._id

    @property
    def live(self) -> LiveModelReference:
        """Return the reference to the live model."""
        return self._release_switch.live

    @property
    def swaps(self) -> int:
        """Return how often the live model was switched to another release."""
        return self._release_switch.swaps

    def start(self) -> None:
        """Start the threads; registering and loading continue in the background."""
        self._thread.start()
        self._follower.start()
        self._sweeper.start()

    def stop(self) -> None:
        """Stop answering, end the threads, free the models and deregister."""
        self._stopping.set()
        self.wake()
        self.data_changed()
        for thread in (self._thread, self._follower, self._sweeper):
            if thread.ident is not None:
                thread.join()
        self.answer_lease.revoke()
        self._load_executor.shutdown(cancel_futures=True)
        self._release_switch.close()
        self._backend.close()
        if self._id is not None:
            # Without a database the lease expires by itself.
            with contextlib.suppress(DatabaseUnavailableError), self._uow() as uow:
                deregister_replica(uow, self._id)
            self._id = None

    def forget(self, user_id: str | None) -> None:
        """Drop the states of this user's history, or of all histories, from all loaded models."""
        self._release_switch.forget(user_id)

    def data_changed(self) -> None:
        """Follow the change log now instead of at the next poll."""
        self._data_changed.set()

    def wake(self) -> None:
        """Read the alias now instead of at the next poll."""
        self._wake.set()

    def await_release(self, release_id: str | None) -> bool:
        """Wait for the switch to this release; return False if it does not happen in time.

        One poll interval is long enough: a rollout flips the alias only after all replicas have
        prepared the release, so this replica only has to read the alias.
        """
        self.wake()
        return release_id is not None and self.live.await_release(release_id, self._poll_seconds)

    def reasons_not_ready(self) -> list[str]:
        """Return the reasons why this replica should get no traffic; empty if it is ready."""
        reasons = []
        if not self._is_database_up:
            reasons.append("the database cannot be reached")
        reasons += self._restore_watch.reasons_not_ready()
        if not self.answer_lease.valid:
            reasons.append("the replica's lease is not valid")
        reasons += self._release_switch.reasons_not_ready()
        if not self.first_stage.ready:
            reasons.append("the first stage's statistics are being built")
        return reasons

    def tick(self) -> None:
        """Register or renew if this is due or the state changed, then act on the alias."""
        # Read before the renewal is sent: see AnswerLease.now.
        now = self.answer_lease.now()
        if self._id is not None and not self.answer_lease.valid:
            # A rollout may have stopped waiting for this registration. Under the old id, this
            # process could answer from a release that the rollout believes is no longer served,
            # so the process registers as a new replica and drops every other release.
            self._drop_registration()
        if self._id is not None and now - self._renewed_at >= self._renew_seconds:
            self._restore_watch.follow()
        if self._id is None:
            alias: Alias | None = self._register(now)
        elif (
            self._release_switch.state() != self._reported
            or now - self._renewed_at >= self._renew_seconds
        ):
            alias = self._renew(self._id, now)
        else:
            with self._uow.lease(write=False) as uow:
                alias = uow.releases.alias()
                self._restore_watch.read(uow)
        self._is_database_up = True
        if alias is not None:
            self._release_switch.step(alias, now)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Cleared before the tick: a wake-up during the tick then causes another tick.
            self._wake.clear()
            try:
                self.tick()
            except DatabaseUnavailableError:
                self._is_database_up = False
            except LedgerDamagedError as error:
                # Forgotten persons may be missing in the suppressions, so this replica stops.
                self._restore_watch.refuse(error)
                self.answer_lease.revoke()
                self._id = None
            except Exception as error:  # noqa: BLE001 - any error must not end the thread; logged
                # Without this thread the lease would expire; the next tick may succeed.
                _log.error("replica.tick_failed", **error_location(error))
            if self._id is not None and self._release_switch.state() != self._reported:
                continue  # Report at once: a rollout waits for this report.
            self._wake.wait(self._poll_seconds)

    def _follow_change_log(self) -> None:
        """Keep the first stage up to date, so that queries have few changes left to apply."""
        while not self._stopping.is_set():
            started = time.monotonic()
            self._data_changed.clear()
            try:
                self.first_stage.follow()
            except DatabaseUnavailableError:
                self._is_database_up = False
            except Exception as error:  # noqa: BLE001 - as in _run
                # Queries apply the changes themselves, or fail with the cause.
                _log.error("candidates.follow_failed", **error_location(error))
            # An import changes the data many times. Waiting four times as long as the work took
            # limits rebuilds to a fifth of the time.
            self._data_changed.wait(max(self._poll_seconds, 4 * (time.monotonic() - started)))

    def _sweep_cache(self) -> None:
        """Delete copies of releases that dead processes left; this machine may have no worker."""
        while not self._stopping.is_set():
            try:
                self._clear_cache()
            except OSError as error:
                _log.warning("replica.cache_not_swept", error=type(error).__name__)
            self._stopping.wait(_SWEEP_SECONDS)

    def _register(self, now: float) -> Alias:
        replica_id = new_id("rep")
        with self._uow() as uow:
            version = self._restore_watch.open(uow)
            alias = register_replica(
                uow,
                self._ttl,
                replica_id=replica_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                scorer=self._scorer,
            )
        self.first_stage.discard_newer(version)
        self._id, self._reported = replica_id, ReplicaState()
        # Models of other releases are dropped before the lease becomes valid: otherwise an answer
        # could use a release that was replaced while this process had no lease.
        self._release_switch.restart(alias, now)
        self._extend_lease(now)
        _log.info("replica.registered", replica=replica_id, release=alias.live)
        return alias

    def _renew(self, replica_id: str, now: float) -> Alias | None:
        state = self._release_switch.state()
        with self._uow.lease() as uow:
            alias = renew_replica(uow, self._ttl, replica_id, state, self.first_stage.version)
        if alias is None:
            self._drop_registration()
            self.wake()
            return None
        self._reported = state
        self._extend_lease(now)
        return alias

    def _extend_lease(self, sent_at: float) -> None:
        self._renewed_at = sent_at
        self.answer_lease.extend(sent_at)

    def _drop_registration(self) -> None:
        _log.warning("replica.lease_lost", replica=self._id)
        self.answer_lease.revoke()
        self._id = None
