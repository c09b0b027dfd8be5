"""Track this process's lease, the permission to send answers for a time after each renewal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.domain.errors import ReplicaNotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.settings import Settings


class AnswerLease:
    """The replica's lease by the clock of this process.

    The process stops answering `replica_ttl - replica_margin` seconds after it sent the last
    renewal. A rollout assumes that the process answers until `replica_ttl + replica_margin` seconds
    after the database recorded the renewal. The two margins prevent this race: a process whose
    clock runs slower, or an answer that passed its last check just before the lease ended and is
    still being sent, would deliver the old release's answer after the rollout has stopped waiting
    for this replica.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start with an invalid lease."""
        self._seconds = settings.replica_ttl - settings.replica_margin
        self._monotonic = monotonic
        self._until: float | None = None

    def now(self) -> float:
        """Return the time to pass to `extend`, in seconds; read it before sending the renewal.

        The database counts the TTL from a later moment, so the local lease always ends first.
        """
        return self._monotonic()

    def extend(self, sent_at: float) -> None:
        """Extend the lease after a successful renewal that was sent at `sent_at`."""
        self._until = sent_at + self._seconds

    def revoke(self) -> None:
        """End the lease now."""
        self._until = None

    @property
    def valid(self) -> bool:
        """Return whether this replica may send an answer now."""
        until = self._until
        return until is not None and self._monotonic() < until

    def require(self) -> None:
        """Raise ReplicaNotReadyError unless an answer may be sent now."""
        if not self.valid:
            raise ReplicaNotReadyError
