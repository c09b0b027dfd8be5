"""The relay process: wake-ups from the outbox to Celery's broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory
from worker.celery_app import make_celery
from worker.context import open_artifacts
from worker.relay import run_relay

if TYPE_CHECKING:
    from threading import Event

    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore


@dataclass(frozen=True, slots=True)
class _RelayContext:
    settings: Settings
    uow_factory: UnitOfWorkFactory
    artifacts: ArtifactStore


def relay_to_broker(settings: Settings, stop: Event) -> None:
    """Relay until told to stop."""
    database = make_database(settings.sqlalchemy_url)
    celery = make_celery(settings)

    def send(entity_id: str) -> None:
        # A refused connection raises at once; the row stays owed and the next turn tries again.
        celery.send_task("lethe.wake", args=[entity_id], retry=False)

    context = _RelayContext(settings, UnitOfWorkFactory(database), open_artifacts(settings))
    try:
        run_relay(context, send, stop)
    finally:
        celery.close()
        database.dispose()
