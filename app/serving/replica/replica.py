"""This gateway process as a replica: holds a lease, follows the alias, swaps, confirms.

One thread renews and decides; releases are loaded on a second one, so that a long load never costs
the lease. What is decided here is told to the database with the next renewal, at once if it is new.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import DatabaseUnavailableError
from app.domain.identifiers import new_id
from app.services.policies import ReplicaPolicy
from app.services.replicas import (
    ReplicaState,
    deregister_replica,
    register_replica,
    renew_replica,
)
from app.services.secrets import check_hash_key
from app.serving.replica.answer_lease import AnswerLease
from app.serving.replica.release_switch import ReleaseSwitch

if TYPE_CHECKING:
    from app.domain.releases import Alias
    from app.services.ports import UnitOfWorkFactory
    from app.services.pseudonyms import Pseudonyms
    from app.serving.replica.live_model import LiveModelReference
    from app.serving.replica.release_loader import ReleaseLoader
    from app.serving.retrieval.first_stage import FirstStage
    from app.settings import Settings

_log = structlog.get_logger(__name__)
_RENEWALS_PER_LEASE: Final = 3


class Replica:
    """Registers, renews and watches from a thread of its own, between `start` and `stop`."""

    def __init__(
        self,
        settings: Settings,
        uow: UnitOfWorkFactory,
        loader: ReleaseLoader,
        candidates: FirstStage,
        pseudonyms: Pseudonyms,
    ) -> None:
        """Take everything that the threads need; nothing starts yet."""
        self.policy = ReplicaPolicy.of(settings)
        self.right = AnswerLease(self.policy)
        self._uow = uow
        self.candidates = candidates
        self._pseudonyms = pseudonyms
        self._poll_seconds = min(settings.poll_seconds, self.policy.ttl / _RENEWALS_PER_LEASE)
        self._wake = threading.Event()
        self._behind = threading.Event()
        self._stopping = threading.Event()
        self._scorers = loader.scorers
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="lethe-load")
        self._release_switch = ReleaseSwitch(
            uow,
            loader,
            self._loading,
            drain_timeout=settings.drain_timeout,
            retry_seconds=self.policy.ttl,
            wake=self.wake,
        )
        candidates.watch(self.forget)
        self._thread = threading.Thread(target=self._run, name="lethe-replica", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="lethe-follow", daemon=True)
        self._id: str | None = None
        self._reported = ReplicaState()
        self._renewed_at = float("-inf")
        self._database_up = False

    @property
    def id(self) -> str | None:
        """Return the id under which this process is registered at present."""
        return self._id

    @property
    def live(self) -> LiveModelReference:
        """Return the reference that answers go through."""
        return self._release_switch.live

    @property
    def swaps(self) -> int:
        """Return how often the reference has flipped to another release."""
        return self._release_switch.swaps

    def start(self) -> None:
        """Start the threads; registering and loading go on beside the caller."""
        self._thread.start()
        self._follower.start()

    def stop(self) -> None:
        """Stop answering, end the threads and say goodbye to the database."""
        self._stopping.set()
        self.wake()
        self.data_changed()
        for thread in (self._thread, self._follower):
            if thread.ident is not None:
                thread.join()
        self.right.revoke()
        self._loading.shutdown(cancel_futures=True)
        self._release_switch.close()
        self._scorers.close()
        if self._id is not None:
            # Where the database is away the lease runs out by itself.
            with contextlib.suppress(DatabaseUnavailableError), self._uow() as uow:
                deregister_replica(uow, self._id)
            self._id = None

    def forget(self, user_id: str | None) -> None:
        """Drop what any release in memory made of this person's history, or of everybody's."""
        self._release_switch.forget(user_id)

    def data_changed(self) -> None:
        """Have the change log followed now rather than at the next poll."""
        self._behind.set()

    def wake(self) -> None:
        """Have the alias looked at now rather than at the next poll."""
        self._wake.set()

    def await_release(self, release_id: str | None) -> bool:
        """Wait a moment for the flip to this release to arrive here; False when it does not.

        All replicas have prepared by then, so what is waited for is one look at the alias.
        """
        self.wake()
        return release_id is not None and self.live.await_release(release_id, self._poll_seconds)

    def reasons_not_ready(self) -> list[str]:
        """Say why this replica should get no traffic; empty when it is ready."""
        reasons = []
        if not self._database_up:
            reasons.append("the database cannot be reached")
        if not self.right.valid:
            reasons.append("the replica's lease is not valid")
        if self.live.release_id is None:
            reasons.append("no release is being served yet")
        if not self.candidates.ready:
            reasons.append("the candidates' statistics are being built")
        if self._release_switch.problem is not None:
            reasons.append(self._release_switch.problem)
        return reasons

    def tick(self) -> None:
        """Register or renew when that is due or something is new, then act on the alias."""
        now = self.right.now()
        if self._id is not None and not self.right.valid:
            # The lease may have been counted out: what comes back is a new replica.
            self._lose()
        if self._id is None:
            alias: Alias | None = self._register(now)
        elif (
            self._release_switch.state() != self._reported
            or now - self._renewed_at >= self.policy.ttl / _RENEWALS_PER_LEASE
        ):
            alias = self._renew(self._id, now)
        else:
            with self._uow(write=False) as uow:
                alias = uow.releases.alias()
        self._database_up = True
        if alias is not None:
            self._release_switch.step(alias, now)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.tick()
            except DatabaseUnavailableError:
                self._database_up = False
            except Exception as error:  # noqa: BLE001 - the thread is the replica's life; logged below
                # A replica that stops renewing leaves the service; the next tick may do better.
                _log_failure("replica.tick_failed", error)
            if self._id is not None and self._release_switch.state() != self._reported:
                continue  # Confirm at once; a roll-out waits for it.
            self._wake.wait(self._poll_seconds)

    def _follow(self) -> None:
        """Keep the candidates' statistics near the data, so that requests find little to do."""
        while not self._stopping.is_set():
            started = time.monotonic()
            self._behind.clear()
            try:
                self.candidates.follow()
            except DatabaseUnavailableError:
                self._database_up = False
            except Exception as error:  # noqa: BLE001 - as in _run
                # Requests bring the statistics up to date themselves, or fail with the cause.
                _log_failure("candidates.follow_failed", error)
            # An import changes everything many times over; rebuilding takes a fifth of the time.
            self._behind.wait(max(self._poll_seconds, 4 * (time.monotonic() - started)))

    def _register(self, now: float) -> Alias:
        replica_id = new_id("rep")
        with self._uow() as uow:
            # Under another key no suppression would be recognised: never answer with that.
            check_hash_key(uow, self._pseudonyms)
            alias = register_replica(
                uow, self.policy, replica_id=replica_id, host=socket.gethostname(), pid=os.getpid()
            )
        self._id, self._reported = replica_id, ReplicaState()
        self._release_switch.restart(alias, now)
        self._extend(now)
        _log.info("replica.registered", replica=replica_id, release=alias.live)
        return alias

    def _renew(self, replica_id: str, now: float) -> Alias | None:
        state = self._release_switch.state()
        with self._uow() as uow:
            alias = renew_replica(uow, self.policy, replica_id, state)
        if alias is None:
            self._lose()
            self.wake()
            return None
        self._reported = state
        self._extend(now)
        return alias

    def _extend(self, sent_at: float) -> None:
        self._renewed_at = sent_at
        self.right.extend(sent_at)

    def _lose(self) -> None:
        _log.warning("replica.lease_lost", replica=self._id)
        self.right.revoke()
        self._id = None


def _log_failure(event: str, error: Exception) -> None:
    """Log where it failed, not the message: a database's message can quote a person's data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames[-5:]]
    _log.error(event, error=type(error).__name__, where=where)
