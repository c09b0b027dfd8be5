"""Unload adapters of releases that are neither live nor target from the serving engine.

Several gateways may share one engine, and any of them may crash. Therefore a gateway does not
unload just the adapters that it loaded: before it confirms a release, it unloads every adapter of
this installation whose release is neither live nor target, and verifies that the adapter is gone.
This does not break an answer of another gateway, because answers of such releases fail their
recheck and are never sent. Adapters of releases that the database does not know belong to another
installation and stay loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from app.serving.scorers.scorer import ScorerBackend
    from app.storage.unit_of_work import UnitOfWorkFactory

_log = structlog.get_logger(__name__)


def clean_up_adapters(uow_factory: UnitOfWorkFactory, backend: ScorerBackend) -> None:
    """Unload releases that are neither live nor target.

    Raises EngineError, OSError or DatabaseUnavailableError.
    """
    # The engine's list is read before the alias. Race in the opposite order: another gateway loads
    # a release that became the target after the alias was read, and this cleanup unloads it. In
    # this order, a listed release was live or target before the alias is read; if the alias no
    # longer references the release, the release is superseded.
    held = backend.loaded_release_ids()
    with uow_factory(write=False) as uow:
        alias = uow.releases.alias()
        known = {release_id for release_id in held if uow.releases.get(release_id) is not None}
    for release_id in sorted(known - {alias.live, alias.target}):
        backend.unload(release_id)
        _log.info("replica.unloaded", release=release_id)


class AdapterCleanup:
    """Run cleanups on an executor after each change of the alias, until one succeeds."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        backend: ScorerBackend,
        executor: Executor,
        *,
        retry_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        """Start without a result; `wake` is called after each cleanup."""
        self.problem: str | None = None
        self._uow = uow
        self._backend = backend
        self._executor = executor
        self._retry_seconds = retry_seconds
        self._wake = wake
        self._clean_for: frozenset[str] | None = None
        self._running: tuple[frozenset[str], Future[None]] | None = None
        self._retry_at = float("-inf")

    def restart(self) -> None:
        """Discard all results, including the result of a running cleanup."""
        self._clean_for = self._running = None
        self._retry_at = float("-inf")

    def poll(self, release_ids: frozenset[str], now: float) -> bool:
        """Return whether a cleanup for these releases succeeded; start a cleanup if not."""
        self._collect(now)
        if self._clean_for == release_ids:
            return True
        if self._running is None and now >= self._retry_at:
            future = self._executor.submit(clean_up_adapters, self._uow, self._backend)
            self._running = release_ids, future
            future.add_done_callback(lambda _: self._wake())
        return False

    def _collect(self, now: float) -> None:
        if self._running is None or not self._running[1].done():
            return
        release_ids, future = self._running
        self._running = None
        try:
            future.result()
        except (LetheError, OSError) as error:
            _log.warning("replica.adapter_cleanup_failed", error=str(error))
            self.problem = f"older releases cannot be unloaded: {type(error).__name__}"
            self._retry_at = now + self._retry_seconds
        else:
            self.problem = None
            self._clean_for = release_ids
