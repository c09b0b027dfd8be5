"""Lets go of what an engine holds of releases that the alias does not name any more.

Several gateways may share one engine, and any of them may die. So no gateway lets go of what it
has loaded: each of them, before it confirms a release, makes the engine hold nothing but what the
alias names, live or target, whoever loaded it. Answers of any other release are never sent, so that
this takes nothing from anybody; and the gateway that confirms has seen with its own eyes that the
old release is gone. Names that this database does not know are another installation's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LetheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from app.services.ports import UnitOfWorkFactory
    from app.serving.scorers.scorer import ScorerBackend

_log = structlog.get_logger(__name__)


def clean_up_adapters(uow_factory: UnitOfWorkFactory, scorers: ScorerBackend) -> None:
    """Unload what the alias does not name; raises EngineError, OSError or of the database.

    What is held is asked for before the alias is read. Whatever is loaded by then was named by
    then: if it is not named afterwards, its time is over, and not still to come.
    """
    held = scorers.held()
    with uow_factory(write=False) as uow:
        alias = uow.releases.alias()
        known = {one for one in held if uow.releases.get(one) is not None}
    for release_id in sorted(known - {alias.live, alias.target}):
        scorers.unload(release_id)
        _log.info("replica.unloaded", release=release_id)


class AdapterCleanup:
    """Tidies on the executor whenever the alias has changed, until it has succeeded once."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        scorers: ScorerBackend,
        executor: Executor,
        *,
        retry_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        """Start with nothing known."""
        self.problem: str | None = None
        self._uow = uow
        self._scorers = scorers
        self._executor = executor
        self._retry_seconds = retry_seconds
        self._wake = wake
        self._done: frozenset[str] | None = None
        self._running: tuple[frozenset[str], Future[None]] | None = None
        self._again = float("-inf")

    def restart(self) -> None:
        """Believe nothing of before; a run that is under way counts for nothing."""
        self._done = self._running = None
        self._again = float("-inf")

    def done(self, wanted: frozenset[str], now: float) -> bool:
        """Say whether nothing but `wanted` is held, as seen since they are wanted; see to it."""
        self._collect(now)
        if self._done == wanted:
            return True
        if self._running is None and now >= self._again:
            future = self._executor.submit(clean_up_adapters, self._uow, self._scorers)
            self._running = wanted, future
            future.add_done_callback(lambda _: self._wake())
        return False

    def _collect(self, now: float) -> None:
        if self._running is None or not self._running[1].done():
            return
        wanted, future = self._running
        self._running = None
        try:
            future.result()
        except (LetheError, OSError) as error:
            _log.warning("replica.tidying_failed", error=str(error))
            self.problem = f"older releases cannot be unloaded: {type(error).__name__}"
            self._again = now + self._retry_seconds
        else:
            self.problem = None
            self._done = wanted
