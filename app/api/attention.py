"""Read what needs attention for `/readyz`, which must answer although the database is slow."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import LetheError
from app.services.attention import Attention, read_attention

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

log = structlog.get_logger(__name__)

#: Seconds for which a probe waits for the database.
_WAIT: Final = 0.5
#: Seconds after which a result is too old to be reported.
_MAX_AGE: Final = 60.0


class AttentionReader:
    """Reads in a thread of its own, one read at a time, and keeps the latest result."""

    def __init__(self, settings: Settings, uow: UnitOfWorkFactory) -> None:
        self._settings = settings
        self._uow = uow
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._latest: tuple[float, Attention] | None = None

    async def latest(self) -> Attention | None:
        """Start a read, wait briefly, and return the latest result, or None if there is none."""
        done = self._start()
        await asyncio.to_thread(done.wait, _WAIT)
        latest = self._latest
        if latest is None or time.monotonic() - latest[0] > _MAX_AGE:
            return None
        return latest[1]

    def _start(self) -> threading.Event:
        """Return the event that ends the running read; start a read if none is running."""
        with self._lock:
            if self._running is not None:
                return self._running
            self._running = done = threading.Event()
        threading.Thread(target=self._read, args=(done,), name="attention", daemon=True).start()
        return done

    def _read(self, done: threading.Event) -> None:
        try:
            with self._uow(write=False) as uow:
                attention = read_attention(uow, self._settings)
            self._latest = time.monotonic(), attention
        except LetheError as error:
            log.warning("attention_not_read", error=type(error).__name__)
        finally:
            with self._lock:
                self._running = None
            done.set()
