"""Request deletions at a constant rate, beside a load of recommendations."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from app.cli.failures import CommandError
from benchmarks.serving.load import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.client import Service


class Forgets(threading.Thread):
    """Sends one `POST /forget` per user, each due at a fixed time, until `stop` or the last user.

    The latency counts from the due time, so that a slow deletion delays none of the others unseen.
    """

    def __init__(self, service: Service, users: Sequence[str], per_second: float) -> None:
        """Take the users to forget, in order."""
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._service = service
        self._users = users
        self._interval = 1.0 / per_second
        self._stopped = threading.Event()

    def run(self) -> None:
        start = time.time()
        for number, user in enumerate(self._users):
            due = start + number * self._interval
            if self._stopped.wait(max(0.0, due - time.time())):
                return
            outcome = "answered"
            try:
                self._service.call("POST", "/forget", json={"user_id": user})
            except CommandError:
                outcome = "failed"
            self.samples.append(
                Sample(due=due, milliseconds=1000 * (time.time() - due), outcome=outcome)
            )

    def stop(self) -> list[Sample]:
        """Send no further requests; return the samples."""
        self._stopped.set()
        self.join()
        return self.samples
