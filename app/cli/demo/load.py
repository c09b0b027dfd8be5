"""Background load of recommendation requests at a constant rate, with counts of the answers."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from app.cli.failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.client import Service

REQUESTS_PER_SECOND: Final = 5.0


def next_request_at(due: float, started: float, ended: float) -> float:
    """Return when the next request is due: at the rate, or after a pause as long as the answer."""
    return max(due + 1 / REQUESTS_PER_SECOND, ended + (ended - started))


class BackgroundLoad:
    """Requests recommendations for the given users in turn until the block ends.

    A slow service is busy with these requests for at most half of the time, because training on the
    same machine needs the processors too.
    """

    def __init__(self, service: Service, users: Sequence[str]) -> None:
        self._service = service
        self._users = itertools.cycle(users)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.answered = 0
        self.failed = 0
        self.slowest = 0.0
        #: Answers per release; during a swap the count moves from the old to the new release.
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

    def __exit__(self, error_type: object, *_: object) -> None:
        self._stop.set()
        if error_type is None:
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            started = time.monotonic()
            self._request(next(self._users), started)
            due = next_request_at(due, started, time.monotonic())

    def _request(self, user: str, started: float) -> None:
        try:
            release = self._service.recommend(user, 10)["release"]
        except CommandError:
            self.failed += 1
            return
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.releases[release] = self.releases.get(release, 0) + 1
