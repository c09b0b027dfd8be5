"""What a Celery worker process holds for as long as it is up: its context and its presence."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from app.settings import get_settings
from worker.context import WorkerContext, build_context
from worker.heartbeat import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.settings import Settings
    from worker.learner import Learner


class Runtime:
    """Opened when the worker process begins, closed when it ends."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        #: Another way to the machine learning than the settings', where there is one.
        self.make_learner: Callable[[Settings], Learner] | None = None
        self._context: WorkerContext | None = None
        self._worker_heartbeat: WorkerHeartbeat | None = None

    def start(self) -> None:
        """Connect and show that this worker is up."""
        self._context = build_context(get_settings(), self.make_learner)
        self._worker_heartbeat = WorkerHeartbeat(self._context)
        self._worker_heartbeat.__enter__()

    @property
    def context(self) -> WorkerContext:
        if self._context is None:
            raise RuntimeError("the worker's runtime has not been started")
        return self._context

    def close(self) -> None:
        """Say goodbye and disconnect."""
        if self._worker_heartbeat is not None:
            self._worker_heartbeat.__exit__(None, None, None)
        if self._context is not None:
            self._context.close()


runtime = Runtime()
