"""A constant load of recommendations in the background, with every answer counted."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from app.cli.failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from app.cli.client import Service

PER_SECOND: Final = 5.0


class BackgroundLoad:
    """Asks for recommendations for other people at a steady pace until the block is left.

    An answer that comes late delays the next question, but none is left out.
    """

    def __init__(self, service: Service, users: Sequence[str]) -> None:
        self._service = service
        self._users = itertools.cycle(users)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.answered = 0
        self.failed = 0
        self.slowest = 0.0
        #: Answers by release: the swap shows as the count moving from one to the other.
        self.releases: dict[str, int] = {}

    def figures(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "slowest_ms": round(self.slowest * 1000, 1),
            "releases": dict(self.releases),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if kind is None:
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 1 / PER_SECOND
            self._ask(next(self._users))

    def _ask(self, user: str) -> None:
        asked = time.monotonic()
        try:
            release = self._service.recommend(user, 10)["release"]
        except CommandError:
            self.failed += 1
            return
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - asked)
        self.releases[release] = self.releases.get(release, 0) + 1
