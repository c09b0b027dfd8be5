"""Follows the alias: load beside, check, switch the one reference, drain and free the old twin.

A plain state machine that one thread steps; it knows leases and renewals only as `ReplicaState`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import EngineError
from app.services.replicas import ReplicaState
from app.serving.replica.adapter_cleanup import AdapterCleanup
from app.serving.replica.live_model import LiveModelReference
from models.checkpoints.manifest import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from app.domain.releases import Alias
    from app.services.ports import UnitOfWorkFactory
    from app.serving.replica.live_model import LoadedModel
    from app.serving.replica.release_loader import ReleaseLoader

_log = structlog.get_logger(__name__)


class ReleaseSwitch:
    """What this replica holds: the live twin, one prepared beside it, and one being drained."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        loader: ReleaseLoader,
        executor: Executor,
        *,
        drain_timeout: float,
        retry_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        """Start with nothing; `wake` is called when a step would find something to do."""
        self.live = LiveModelReference()
        self.swaps = 0
        self._uow = uow
        self._load = loader
        self._executor = executor
        self._drain_timeout = drain_timeout
        self._retry_seconds = retry_seconds
        self._wake = wake
        self._prepared: LoadedModel | None = None
        self._draining: list[tuple[LoadedModel, float]] = []
        self._loading: tuple[str, Future[LoadedModel]] | None = None
        #: Release → (what went wrong, when to try again).
        self._failed: dict[str, tuple[str, float]] = {}
        self._slow_drain: str | None = None
        self._adapter_cleanup = AdapterCleanup(
            uow, loader.scorers, executor, retry_seconds=retry_seconds, wake=wake
        )
        self._confirmed: str | None = None
        #: Every twin that is not freed yet, wherever it is on its way through.
        self._loaded_models: set[LoadedModel] = set()
        self._lock = threading.Lock()

    def forget(self, user_id: str | None) -> None:
        """Have every release in memory drop what it made of this person, or of everybody."""
        with self._lock:
            loaded_models = list(self._loaded_models)
        for loaded_model in loaded_models:
            loaded_model.scorer.forget(user_id)

    def state(self) -> ReplicaState:
        """Return what is to be reported: `serving` only once nothing older is left anywhere."""
        return ReplicaState(
            serving=self._confirmed,
            prepared=None if self._prepared is None else self._prepared.release_id,
            problem=self.problem,
        )

    @property
    def problem(self) -> str | None:
        """Return what keeps this replica from where the alias wants it."""
        failures = [message for message, _ in self._failed.values()]
        if self.live.lost:
            failures.append(f"the engine has lost release {self.live.release_id}")
        return failures[0] if failures else self._slow_drain or self._adapter_cleanup.problem

    def restart(self, alias: Alias, now: float) -> None:
        """Begin anew under a new registration, keeping nothing but the current release."""
        self._drop_prepared()
        self._failed.clear()
        self._adapter_cleanup.restart()
        if self.live.release_id != alias.live:
            self._retire(self.live.switch(None), now)
        self._confirmed = None

    def step(self, alias: Alias, now: float) -> None:
        """Bring what is held nearer to what the alias asks for."""
        wanted = [each for each in (alias.live, alias.target) if each is not None]
        self._failed = {k: v for k, v in self._failed.items() if k in wanted}
        self._collect(wanted, now)
        if self._prepared is not None and self._prepared.release_id not in wanted:
            self._drop_prepared()
        if self._prepared is not None and self._prepared.release_id == alias.live:
            self._switch(self._prepared, now)
        here = (None if self.live.lost else self.live.release_id, self._prepared_id())
        for release_id in wanted:
            if release_id not in here:
                self._begin_load(release_id, now)
        self._finish_draining(now)
        if self._draining or not self._adapter_cleanup.done(frozenset(wanted), now):
            return
        if self.live.release_id == alias.live:
            self._confirmed = alias.live

    def close(self) -> None:
        """Drain what answers and drop everything, at shutdown."""
        loaded_model = self.live.switch(None)
        if loaded_model is not None:
            loaded_model.drain(self._drain_timeout)
            self._free(loaded_model)
        self._drop_prepared()

    def _prepared_id(self) -> str | None:
        return None if self._prepared is None else self._prepared.release_id

    def _begin_load(self, release_id: str, now: float) -> None:
        """Load one release at a time; a failed one waits before it is tried again."""
        if self._loading is not None or self._failed.get(release_id, ("", now))[1] > now:
            return
        with self._uow(write=False) as uow:
            release = uow.releases.get(release_id)
        if release is None:
            return
        future = self._executor.submit(self._load, release)
        self._loading = release_id, future
        future.add_done_callback(lambda _: self._wake())

    def _collect(self, wanted: list[str], now: float) -> None:
        """Take a finished load: beside the live twin, whatever the alias says by now."""
        if self._loading is None or not self._loading[1].done():
            return
        release_id, future = self._loading
        self._loading = None
        try:
            loaded_model = future.result()
            with self._lock:
                self._loaded_models.add(loaded_model)
        except (CheckpointError, EngineError, OSError, RuntimeError, MemoryError) as error:
            _log.warning("replica.load_failed", release=release_id, error=str(error))
            message = f"release {release_id} cannot be loaded: {type(error).__name__}"
            self._failed[release_id] = message, now + self._retry_seconds
            return
        self._failed.pop(release_id, None)
        if release_id in wanted:
            self._drop_prepared()
            self._prepared = loaded_model
        else:
            self._free(loaded_model)

    def _switch(self, loaded_model: LoadedModel, now: float) -> None:
        self._prepared = None
        before = self.live.switch(loaded_model)
        self.swaps += 1
        _log.info("replica.switched", release=loaded_model.release_id)
        self._retire(before, now)

    def _retire(self, loaded_model: LoadedModel | None, now: float) -> None:
        if loaded_model is not None:
            self._draining.append((loaded_model, now + self._drain_timeout))
            loaded_model.when_idle(self._wake)

    def _finish_draining(self, now: float) -> None:
        """Free what nobody reads any more; a reader that stays too long is a problem to report.

        The weights are never taken from under a reader: it can send nothing any more, since every
        answer is checked against the alias, and the roll-out waits or fences this replica.
        """
        waiting = []
        for loaded_model, deadline in self._draining:
            if loaded_model.idle:
                self._free(loaded_model)
            else:
                waiting.append((loaded_model, deadline))
        self._draining = waiting
        late = [loaded_model.release_id for loaded_model, deadline in waiting if now >= deadline]
        self._slow_drain = f"release {late[0]} is still being read" if late else None

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._free(self._prepared)
            self._prepared = None

    def _free(self, loaded_model: LoadedModel) -> None:
        loaded_model.free()
        with self._lock:
            self._loaded_models.discard(loaded_model)
