"""The Celery application: a carrier of wake-ups that hold one id, and nothing else.

The database is the queue. Redis may lose a message (the relay's sweeper sends another) or deliver
one twice (the second claim finds nothing), so there is no result backend and nothing to recover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery, signals

from app.logs import configure_logging
from app.settings import get_settings
from worker.process import be_nice
from worker.runtime import runtime

if TYPE_CHECKING:
    from app.settings import Settings

#: Longer than a job usually takes; a message that is delivered again after it does no harm.
_VISIBILITY_TIMEOUT_SECONDS = 3_600
#: A broker that hangs must not hang the relay.
_SOCKET_TIMEOUT_SECONDS = 10.0


def make_celery(settings: Settings) -> Celery:
    """Configure Celery for the broker of these settings."""
    celery = Celery("lethe", broker=settings.broker_url, include=["worker.tasks"])
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # One job of any kind at a time and a process that torch owns: no pool of forks.
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


celery_app = make_celery(get_settings())


def _start(**_ignored: object) -> None:
    settings = get_settings()
    configure_logging(settings.log_level)
    be_nice(settings.worker_nice)
    runtime.start()


def _interrupt(**_ignored: object) -> None:
    # Sent from the signal handler while the task may be running: it gives its job back.
    runtime.stop.set()


def _end(**_ignored: object) -> None:
    runtime.close()


signals.worker_init.connect(_start)
signals.worker_shutting_down.connect(_interrupt)
signals.worker_shutdown.connect(_end)
