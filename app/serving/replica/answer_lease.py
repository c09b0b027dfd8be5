"""The right to answer, as this process sees it: valid for a while after each renewal was sent."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from app.domain.errors import ReplicaNotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.services.policies import ReplicaPolicy


class AnswerLease:
    """Ends by itself at monotonic(sending of the last renewal) + TTL - margin.

    The database counts this replica out only after TTL + margin, so that clocks may run at
    slightly different speeds and an answer may be on its way for a moment.
    """

    def __init__(
        self, policy: ReplicaPolicy, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without the right."""
        self._seconds = policy.ttl - policy.margin
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._until: float | None = None

    def now(self) -> float:
        """Return the moment to pass to `extend`; read it before the renewal is sent."""
        return self._monotonic()

    def extend(self, sent_at: float) -> None:
        """Take note of a renewal that was sent at `sent_at` and has succeeded."""
        with self._lock:
            self._until = sent_at + self._seconds

    def revoke(self) -> None:
        """Stop answering at once."""
        with self._lock:
            self._until = None

    @property
    def valid(self) -> bool:
        """Say whether this replica may send an answer right now."""
        until = self._until
        return until is not None and self._monotonic() < until

    def require(self) -> None:
        """Raise ReplicaNotReadyError unless an answer may be sent right now."""
        if not self.valid:
            raise ReplicaNotReadyError
