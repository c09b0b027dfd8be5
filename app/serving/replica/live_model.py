"""Hold loaded releases and the reference to the live model.

A loaded model never changes: a new release is loaded as a second model (the standby model), and
then the reference switches. Each answer captures the reference once, so that no answer mixes two
releases.
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
    """A loaded release, with a count of the answers that read it."""

    def __init__(self, release_id: str, scorer: Scorer) -> None:
        """Take ownership of the release's scorer."""
        self.release_id = release_id
        self.scorer = scorer
        self._readers = 0
        self._idle = threading.Condition()
        self._on_idle: Callable[[], None] | None = None

    def add_reader(self) -> None:
        """Count one more reader; only LiveModelReference calls this, under its lock."""
        with self._idle:
            self._readers += 1

    def remove_reader(self) -> None:
        """Count one reader less, and notify waiting threads after the last reader."""
        with self._idle:
            self._readers -= 1
            notify = self._on_idle if self._readers == 0 else None
            self._idle.notify_all()
        if notify is not None:
            notify()

    def when_idle(self, notify: Callable[[], None]) -> None:
        """Call `notify` when the last reader leaves, or now if there is no reader."""
        # The callback is set and the count is read under one lock. Otherwise the last reader could
        # leave in between, and nothing would call `notify`.
        with self._idle:
            self._on_idle = notify
            is_idle = self._readers == 0
        if is_idle:
            notify()

    @property
    def is_idle(self) -> bool:
        """Return whether no answer reads the model."""
        with self._idle:
            return self._readers == 0

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the last reader; return whether the model is idle."""
        with self._idle:
            return self._idle.wait_for(lambda: self._readers == 0, timeout)

    def free(self) -> None:
        """Free the memory that this process uses for the release."""
        self.scorer.close()


class LiveModelReference:
    """The reference through which every answer reaches the live model."""

    def __init__(self) -> None:
        """Start without a model."""
        self._lock = threading.Condition()
        self._loaded_model: LoadedModel | None = None

    @property
    def release_id(self) -> str | None:
        """Return the id of the live model's release."""
        loaded_model = self._loaded_model
        return None if loaded_model is None else loaded_model.release_id

    @property
    def precision(self) -> str | None:
        """Return the data type of the live model's weights, if they are in this process."""
        loaded_model = self._loaded_model
        return None if loaded_model is None else loaded_model.scorer.precision

    @property
    def lost(self) -> bool:
        """Return whether the serving engine no longer holds the live model."""
        loaded_model = self._loaded_model
        return loaded_model is not None and loaded_model.scorer.lost

    @contextmanager
    def capture(self) -> Iterator[LoadedModel]:
        """Hold the live model until the block ends; raises NoReleaseError without a model."""
        # Race without the lock: between reading the reference and counting the reader, a switch
        # could retire the model, see no reader and free the weights that this answer is about to
        # use.
        with self._lock:
            loaded_model = self._loaded_model
            if loaded_model is None:
                raise NoReleaseError
            loaded_model.add_reader()
        try:
            yield loaded_model
        finally:
            loaded_model.remove_reader()

    def switch(self, loaded_model: LoadedModel | None) -> LoadedModel | None:
        """Make `loaded_model` the live model; return the previous model, to be drained."""
        with self._lock:
            previous, self._loaded_model = self._loaded_model, loaded_model
            self._lock.notify_all()
        return previous

    def await_release(self, release_id: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds for this release to become live; return whether it is."""
        with self._lock:
            return self._lock.wait_for(lambda: self.release_id == release_id, timeout)
