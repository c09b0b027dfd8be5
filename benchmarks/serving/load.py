"""Load generator: `python -m benchmarks.serving.load` reads a plan and writes samples, as JSON.

Every client is a thread with its own connection. In a closed loop a client sends the next request
after the answer. In an open loop requests are due at a constant rate, independent of the answers,
and the latency counts from the due time, so that a stall is not hidden.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT: Final = 30.0
_OK: Final = 200
_REFUSED: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Requests to send. Without `rate` the loop is closed. Times are in seconds."""

    host: str
    port: int
    users: Sequence[str]
    clients: int
    seconds: float
    warm_up: float = 1.0
    #: Requests per second of an open loop.
    rate: float | None = None
    #: `{user}` is replaced by the quoted user id.
    path: str = "/recommend/{user}?n=10"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request: the due time (Unix time), the latency, and the outcome."""

    due: float
    milliseconds: float
    #: "answered", "refused" (429, 503) or "failed".
    outcome: str
    release: str | None = None


class _Client(threading.Thread):
    """Sends requests over one connection until the end of the plan."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        start: float,
        turns: itertools.count[int],
        over: threading.Event,
    ) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._plan, self._start, self._turns, self._over = plan, start, turns, over
        self._users = list(plan.users)
        random.Random(plan.seed + number).shuffle(self._users)  # noqa: S311 -- not for security
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        plan, begin = self._plan, self._start + self._plan.warm_up
        end = begin + plan.seconds
        for user in itertools.cycle(self._users):
            due = time.time()
            if plan.rate is not None:
                due = self._start + next(self._turns) / plan.rate
                time.sleep(max(0.0, due - time.time()))
            if due >= end or self._over.is_set():
                break
            outcome, release = self._request(user)
            if due >= begin:
                self.samples.append(
                    Sample(
                        due=due,
                        milliseconds=1000 * (time.time() - due),
                        outcome=outcome,
                        release=release,
                    )
                )
        if self._connection is not None:
            self._connection.close()

    def _request(self, user: str) -> tuple[str, str | None]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                self._plan.host, self._plan.port, timeout=_TIMEOUT
            )
        try:
            self._connection.request("GET", self._plan.path.format(user=quote(user, safe="")))
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return "failed", None
        if response.status != _OK:
            return ("refused" if response.status in _REFUSED else "failed"), None
        return "answered", json.loads(body).get("release")


def run(plan: Plan, over: threading.Event) -> list[Sample]:
    """Send requests from all clients until the end of the plan or until `over` is set.

    Returns the samples after the warm-up.
    """
    start, turns = time.time(), itertools.count()
    clients = [_Client(plan, number, start, turns, over) for number in range(plan.clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sorted(
        (sample for client in clients for sample in client.samples), key=lambda sample: sample.due
    )


def main() -> None:
    """Read a plan, run it until its end or the end of standard input, and write the samples."""
    plan: dict[str, Any] = json.loads(sys.stdin.readline())
    over = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    json.dump([asdict(sample) for sample in run(Plan(**plan), over)], sys.stdout)


if __name__ == "__main__":
    main()
