"""The process that asks: `python -m benchmarks.serving.load`, a plan on stdin, answers on stdout.

Every client is a thread with a connection of its own. In a closed loop it asks again once it is
answered. In an open loop questions are due at a steady rate whether or not the answers keep up, and
an answer's time counts from when its question was due: a stall delays none of the clocks.
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
    """What is to be asked. Without `rate` the loop is closed; times are in seconds."""

    host: str
    port: int
    users: Sequence[str]
    clients: int
    seconds: float
    warm_up: float = 1.0
    #: Questions per second of an open loop.
    rate: float | None = None
    #: `{user}` is filled in.
    path: str = "/recommend/{user}?n=10"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question: when it was due (Unix time), how long the answer took, and what it was."""

    due: float
    milliseconds: float
    #: "answered", "refused" (429, 503) or "failed".
    outcome: str
    release: str | None = None


class _Client(threading.Thread):
    """Asks until the plan's end, over one connection."""

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
        random.Random(plan.seed + number).shuffle(self._users)  # noqa: S311 -- no secret
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
            outcome, release = self._ask(user)
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

    def _ask(self, user: str) -> tuple[str, str | None]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                self._plan.host, self._plan.port, timeout=_TIMEOUT
            )
        try:
            self._connection.request("GET", self._plan.path.format(user=quote(user, safe="")))
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return "failed", None
        if answer.status != _OK:
            return ("refused" if answer.status in _REFUSED else "failed"), None
        return "answered", json.loads(body).get("release")


def run(plan: Plan, over: threading.Event) -> list[Sample]:
    """Ask from as many threads as there are clients, until the end of the plan or `over` is set.

    Returns all that was asked after warming up.
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
    """Read a plan, ask until its end or that of standard input, and write the samples."""
    plan: dict[str, Any] = json.loads(sys.stdin.readline())
    over = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    json.dump([asdict(sample) for sample in run(Plan(**plan), over)], sys.stdout)


if __name__ == "__main__":
    main()
