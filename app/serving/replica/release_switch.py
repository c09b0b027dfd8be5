"""Follow the alias: load the target release, switch the live model, drain and free the old model.

The replica's thread calls `ReleaseSwitch.step` repeatedly. Loading and adapter cleanup run on an
executor, and `step` collects their results.
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
    from app.serving.replica.live_model import LoadedModel
    from app.serving.replica.release_loader import ReleaseLoader
    from app.storage.unit_of_work import UnitOfWorkFactory

_log = structlog.get_logger(__name__)


class ReleaseSwitch:
    """The models that this replica holds: the live, the standby and the draining models.

    One thread calls the methods; only `forget` may be called from any thread.
    """

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
        """Start without models; `wake` is called when `step` has something to do."""
        self.live = LiveModelReference()
        self.swaps = 0
        self._uow = uow
        self._load = loader
        self._executor = executor
        self._drain_timeout = drain_timeout
        self._retry_seconds = retry_seconds
        self._wake = wake
        self._standby: LoadedModel | None = None
        #: Previous live models that answers still read, with the times at which to report them.
        self._draining: list[tuple[LoadedModel, float]] = []
        self._loading: tuple[str, Future[LoadedModel]] | None = None
        #: Release id → (failure, time of the next attempt).
        self._failures: dict[str, tuple[str, float]] = {}
        self._drain_problem: str | None = None
        self._adapter_cleanup = AdapterCleanup(
            uow, loader.backend, executor, retry_seconds=retry_seconds, wake=wake
        )
        self._confirmed: str | None = None
        #: The live release of the alias at the last step.
        self._expected_live: str | None = None
        #: Why that release is not the live model. Replaced as a whole at the end of a step, so that
        #: another thread never reads a state within a switch.
        self._live_problem: str | None = None
        #: Every model that is not freed yet: `forget` must reach the draining models too.
        self._loaded_models: set[LoadedModel] = set()
        #: Guards `_loaded_models`, because `forget` iterates over the set on another thread.
        self._lock = threading.Lock()

    def forget(self, user_id: str | None) -> None:
        """Drop the states of this user, or of all users, from every loaded model."""
        with self._lock:
            loaded_models = list(self._loaded_models)
        for loaded_model in loaded_models:
            loaded_model.scorer.forget(user_id)

    def state(self) -> ReplicaState:
        """Return the state to report; `serving` names a release once older models are freed."""
        return ReplicaState(
            serving=self._confirmed,
            prepared=_release_id(self._standby),
            problem=self.problem,
            failed_release=self._failed_release(),
            # While an old model drains, the live model is not the one that is reported.
            precision=self.live.precision if self.live.release_id == self._confirmed else None,
        )

    @property
    def problem(self) -> str | None:
        """Return the reason why this replica does not follow the alias, or None.

        The replica may be ready all the same: see `reasons_not_ready`.
        """
        failures = [message for message, _ in self._failures.values()]
        if self.live.lost:
            failures.append(f"the engine has lost release {self.live.release_id}")
        return failures[0] if failures else self._drain_problem or self._adapter_cleanup.problem

    def reasons_not_ready(self) -> list[str]:
        """Return why no query can be answered from the live release; empty if queries can be.

        Problems of the target release, of draining and of adapter cleanup are no reasons: all
        replicas may have them at once while all of them answer from the live release.
        """
        reasons = [] if self.live.release_id is not None else ["no release is being served yet"]
        if self.live.lost:
            reasons.append(f"the engine has lost release {self.live.release_id}")
        if self._live_problem is not None:
            reasons.append(self._live_problem)
        return reasons

    def restart(self, alias: Alias, now: float) -> None:
        """Start over under a new registration; only a model of the live release is kept.

        A rollout may have completed without this replica while its lease was expired, so a model
        of another release must not answer again.
        """
        self._drop_standby()
        self._failures.clear()
        self._live_problem = None
        self._adapter_cleanup.restart()
        if self.live.release_id != alias.live:
            self._retire(self.live.switch(None), now)
        self._confirmed = None

    def step(self, alias: Alias, now: float) -> None:
        """Move one step toward holding exactly the live and the target release of the alias."""
        release_ids = [
            release_id for release_id in (alias.live, alias.target) if release_id is not None
        ]
        self._failures = {k: v for k, v in self._failures.items() if k in release_ids}
        self._collect_load(release_ids, now)
        if self._standby is not None and self._standby.release_id not in release_ids:
            self._drop_standby()
        if self._standby is not None and self._standby.release_id == alias.live:
            self._switch_to(self._standby, now)
        self._expected_live = alias.live
        self._live_problem = self._problem_of_live()
        held = (None if self.live.lost else self.live.release_id, _release_id(self._standby))
        for release_id in release_ids:
            if release_id not in held:
                self._start_load(release_id, now)
        self._finish_draining(now)
        if self._draining or not self._adapter_cleanup.poll(frozenset(release_ids), now):
            return
        if self.live.release_id == alias.live:
            self._confirmed = alias.live

    def close(self) -> None:
        """Drain the live model and free all models, at shutdown."""
        loaded_model = self.live.switch(None)
        if loaded_model is not None:
            loaded_model.drain(self._drain_timeout)
            self._free(loaded_model)
        self._drop_standby()

    def _failed_release(self) -> str | None:
        """Return the release whose load failed; the target release if both loads did."""
        failed = sorted(self._failures, key=lambda release_id: release_id == self._expected_live)
        return failed[0] if failed else None

    def _problem_of_live(self) -> str | None:
        """Return why the live release is not the live model; None while a first model is loaded."""
        expected_id = self._expected_live
        if expected_id is None or (self.live.release_id == expected_id and not self.live.lost):
            return None
        if expected_id in self._failures:
            return self._failures[expected_id][0]
        if self.live.release_id in (None, expected_id):
            return None
        return f"release {expected_id} is live and not loaded yet"

    def _start_load(self, release_id: str, now: float) -> None:
        """Start loading a release, unless a load is running or a failed load must wait."""
        if self._loading is not None or self._failures.get(release_id, ("", now))[1] > now:
            return
        with self._uow(write=False) as uow:
            release = uow.releases.get(release_id)
        if release is None:
            return
        future = self._executor.submit(self._load, release)
        self._loading = release_id, future
        future.add_done_callback(lambda _: self._wake())

    def _collect_load(self, release_ids: list[str], now: float) -> None:
        """Make a loaded release the standby model, or free it if the alias has moved on."""
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
            self._failures[release_id] = message, now + self._retry_seconds
            return
        self._failures.pop(release_id, None)
        if release_id in release_ids:
            self._drop_standby()
            self._standby = loaded_model
        else:
            self._free(loaded_model)

    def _switch_to(self, loaded_model: LoadedModel, now: float) -> None:
        self._standby = None
        previous = self.live.switch(loaded_model)
        self.swaps += 1
        _log.info("replica.switched", release=loaded_model.release_id)
        self._retire(previous, now)

    def _retire(self, loaded_model: LoadedModel | None, now: float) -> None:
        if loaded_model is not None:
            self._draining.append((loaded_model, now + self._drain_timeout))
            loaded_model.when_idle(self._wake)

    def _finish_draining(self, now: float) -> None:
        """Free idle models, and report a model that is read beyond the drain timeout.

        A model that is still read is never freed: the answer that reads it would crash. The answer
        cannot be sent anyway, because its recheck finds another live release. Until the model is
        freed, this replica does not confirm the new release, and the rollout waits for it or
        fences it.
        """
        still_read = []
        for loaded_model, deadline in self._draining:
            if loaded_model.is_idle:
                self._free(loaded_model)
            else:
                still_read.append((loaded_model, deadline))
        self._draining = still_read
        late = [loaded_model.release_id for loaded_model, deadline in still_read if now >= deadline]
        self._drain_problem = f"release {late[0]} is still being read" if late else None

    def _drop_standby(self) -> None:
        if self._standby is not None:
            self._free(self._standby)
            self._standby = None

    def _free(self, loaded_model: LoadedModel) -> None:
        loaded_model.free()
        with self._lock:
            self._loaded_models.discard(loaded_model)


def _release_id(loaded_model: LoadedModel | None) -> str | None:
    return None if loaded_model is None else loaded_model.release_id
