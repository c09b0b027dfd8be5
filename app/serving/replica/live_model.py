"""A loaded release, and the one reference to the release that answers.

A twin is never changed: a new release is a new twin, built beside, and the reference flips. Readers
capture the reference once and keep it to their end, so that no answer mixes two releases.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.domain.errors import NoReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.serving.scorers.scorer import Scorer


class LoadedModel:
    """An immutable release in memory, counting its readers."""

    def __init__(self, release_id: str, scorer: Scorer) -> None:
        """Take over the scorer of this release."""
        self.release_id = release_id
        self.scorer = scorer
        self._readers = 0
        self._idle = threading.Condition()
        self._on_idle: Callable[[], None] | None = None

    def enter(self) -> None:
        """Count one more reader. Only LiveTwin calls this, under the lock of its reference."""
        with self._idle:
            self._readers += 1

    def leave(self) -> None:
        """Count one reader less, and tell who waits for the last one."""
        with self._idle:
            self._readers -= 1
            notify = self._on_idle if self._readers == 0 else None
            self._idle.notify_all()
        if notify is not None:
            notify()

    def when_idle(self, notify: Callable[[], None]) -> None:
        """Have `notify` called when the last reader leaves, at once if there is none."""
        with self._idle:
            self._on_idle = notify
            idle = self._readers == 0
        if idle:
            notify()

    @property
    def idle(self) -> bool:
        """Say whether nobody reads at the moment."""
        with self._idle:
            return self._readers == 0

    def drain(self, timeout: float) -> bool:
        """Wait until the last reader has left, no longer than `timeout` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._readers == 0, timeout)

    def free(self) -> None:
        """Free what this process holds of the release."""
        self.scorer.close()


class LiveModelReference:
    """The one reference that every answer goes through."""

    def __init__(self) -> None:
        """Start without a release."""
        self._lock = threading.Condition()
        self._loaded_model: LoadedModel | None = None

    @property
    def release_id(self) -> str | None:
        """Return the release that answers at the moment."""
        loaded_model = self._loaded_model
        return None if loaded_model is None else loaded_model.release_id

    @property
    def lost(self) -> bool:
        """Say whether there is a release, but it can no longer be asked."""
        loaded_model = self._loaded_model
        return loaded_model is not None and loaded_model.scorer.lost

    @contextmanager
    def capture(self) -> Iterator[LoadedModel]:
        """Hold the present twin until the block ends; raises NoReleaseError without one."""
        # The lock closes the gap between reading the reference and counting the reader: without
        # it a switch in between would find the old twin idle and free it.
        with self._lock:
            loaded_model = self._loaded_model
            if loaded_model is None:
                raise NoReleaseError
            loaded_model.enter()
        try:
            yield loaded_model
        finally:
            loaded_model.leave()

    def switch(self, loaded_model: LoadedModel | None) -> LoadedModel | None:
        """Make `twin` the one that answers from now on, and return the one before for draining."""
        with self._lock:
            before, self._loaded_model = self._loaded_model, loaded_model
            self._lock.notify_all()
        return before

    def await_release(self, release_id: str, timeout: float) -> bool:
        """Wait until this release answers, no longer than `timeout` seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: self.release_id == release_id, timeout)
