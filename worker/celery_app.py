"""The Celery application: `celery --app worker.celery_app worker` runs a worker process.

Messages carry one id. The database is the queue: if Redis loses a message, the relay's sweep sends
another, and if Redis delivers a message twice, the second claim finds no job. So there is no result
backend.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog
from celery import Celery, signals

from app.domain.errors import UnavailableError
from app.logs import configure_logging
from app.private_files import protect_home, use_private_umask
from app.settings import settings_or_exit
from worker.context import WorkerContext, build_context
from worker.heartbeat import FileSweeper, WorkerHeartbeat
from worker.loop import run_once
from worker.process import be_nice

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.settings import Settings
    from worker.learner import Learner

log = structlog.get_logger(__name__)

TASK_NAME: Final = "lethe.wake"
#: Longer than a usual job. A second delivery after this time does no harm.
_VISIBILITY_TIMEOUT_SECONDS: Final = 3_600
#: Keeps a relay from waiting for a broker that does not answer.
_SOCKET_TIMEOUT_SECONDS: Final = 10.0


def make_celery(settings: Settings) -> Celery:
    """Return a Celery application for the broker in the settings."""
    celery = Celery("lethe", broker=settings.broker_url)
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # One job runs at a time, and torch does not survive a fork, so there is no process pool.
        worker_pool="solo",
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS,
            "socket_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
        },
        task_default_queue="lethe",
        timezone="UTC",
    )
    return celery


class Runtime:
    """What a Celery worker process holds between its start and its end."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        #: Replaces the learner that the settings select.
        self.make_learner: Callable[[Settings], Learner] | None = None
        self._context: WorkerContext | None = None
        self._resources = ExitStack()

    def start(self) -> None:
        """Connect to the database, and start the worker heartbeat and the sweeps of files."""
        self._context = build_context(settings_or_exit(), self.make_learner)
        self._resources.callback(self._context.close)
        self._resources.enter_context(WorkerHeartbeat(self._context))
        self._resources.enter_context(FileSweeper(self._context))

    @property
    def context(self) -> WorkerContext:
        if self._context is None:
            raise RuntimeError("the worker's runtime has not been started")
        return self._context

    def close(self) -> None:
        """Stop the worker heartbeat and disconnect."""
        self._resources.close()


celery_app = make_celery(settings_or_exit())
runtime = Runtime()


@celery_app.task(name=TASK_NAME)  # type: ignore[untyped-decorator] # celery ships no types
def wake(entity_id: str) -> None:
    """Work until no job is left. The id says only why the message was sent."""
    log.info("woken", entity=entity_id)
    try:
        while not runtime.stop.is_set() and run_once(runtime.context, stop=runtime.stop):
            pass
    except UnavailableError as error:
        # The relay's sweep sends another message when the database is available again.
        log.warning("worker_waits", error=type(error).__name__)


def _start(**_signal: object) -> None:
    settings = settings_or_exit()
    configure_logging(settings.log_level)
    use_private_umask()
    protect_home(settings)
    be_nice(settings.worker_nice)
    runtime.start()


def _stop(**_signal: object) -> None:
    # Celery sends this from its signal handler while `wake` runs; `wake` then gives its job back.
    runtime.stop.set()


def _close(**_signal: object) -> None:
    runtime.close()


signals.worker_init.connect(_start)
signals.worker_shutting_down.connect(_stop)
signals.worker_shutdown.connect(_close)
