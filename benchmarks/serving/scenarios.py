"""Has a running service asked from a second process, alone and while releases are swapped."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.cli.processes import ROOT
from benchmarks.serving.load import Plan, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.cli.client import Service

_POLL: Final = 0.05
_SWAP_TIMEOUT: Final = 240.0
_LISTS_FEWEST: Final = 20


def ask(plan: Plan) -> list[Sample]:
    """Run the plan in a process of its own."""
    return ask_until(plan, lambda: False)


def ask_until(plan: Plan, over: Callable[[], bool]) -> list[Sample]:
    """Run the plan in a process of its own, no longer than until `over`."""
    with (
        tempfile.TemporaryFile("w+") as answers,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"],
            stdin=subprocess.PIPE,
            stdout=answers,
            text=True,
            cwd=ROOT,
        ) as asking,
    ):
        try:
            _follow(asking, plan, over)
        except BaseException:
            asking.kill()
            raise
        if asking.returncode:
            raise RuntimeError(f"the process that asks has failed ({asking.returncode})")
        answers.seek(0)
        return [Sample(**each) for each in json.load(answers)]


def _follow(asking: subprocess.Popen[str], plan: Plan, over: Callable[[], bool]) -> None:
    """Give the plan to the process, and close its input when it is to end."""
    if asking.stdin is None:
        raise RuntimeError("the process that asks has no standard input")
    asking.stdin.write(json.dumps(asdict(plan)) + "\n")
    asking.stdin.flush()
    while asking.poll() is None and not over():
        time.sleep(_POLL)
    asking.stdin.close()
    asking.wait()


def summary(name: str, clients: int, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """Return one scenario's row; times are of answered questions alone."""
    took = np.array([one.milliseconds for one in samples if one.outcome == "answered"])
    p50, p99, p999 = np.percentile(took, (50, 99, 99.9)) if len(took) else (np.nan,) * 3
    return {
        "name": name,
        "clients": clients,
        "requests": len(samples),
        "failed": sum(one.outcome == "failed" for one in samples),
        "refused": sum(one.outcome == "refused" for one in samples),
        "throughput": len(took) / seconds if seconds else None,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(took.max()) if len(took) else np.nan,
        "releases": Counter(one.release for one in samples if one.release),
    }


@dataclass(slots=True)
class Swap:
    """The moments of one deletion, in Unix time."""

    asked: float
    prepare: float | None = None
    confirmed: float | None = None
    completed: float | None = None
    before: str | None = None
    after: str | None = None


@dataclass(slots=True)
class Watch:
    """Asks for deletions one after the other and notes when each swap began and ended."""

    service: Service
    people: Sequence[str]
    swaps: list[Swap] = field(default_factory=list)
    error: Exception | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def problem(self) -> str | None:
        """Wait for the last deletion, and return what kept it from completing."""
        if self._thread is not None:
            self._thread.join()
        return None if self.error is None else f"{type(self.error).__name__}: {self.error}"

    @property
    def over(self) -> bool:
        """Say whether the last deletion is complete, or something went wrong."""
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for person in self.people:
                self._forget(person)
        except Exception as error:  # noqa: BLE001 -- told as the scenario's outcome
            self.error = error

    def _forget(self, person: str) -> None:
        before = self.service.get("/releases", limit=1)["live"]
        request = self.service.call("POST", "/forget", json={"user_id": person})
        swap = Swap(asked=time.time(), before=before)
        self.swaps.append(swap)
        while swap.completed is None:
            if time.time() - swap.asked > _SWAP_TIMEOUT:
                raise TimeoutError(f"the deletion {request['id']} has not completed")
            # The status first: what has completed was confirmed before, and is seen as such.
            status = self.service.get(f"/forget/{request['id']}")["status"]
            releases, now = self.service.get("/releases", limit=1), time.time()
            moving = releases["target"] not in {None, before} or releases["live"] != before
            if swap.prepare is None and moving:
                swap.prepare = now
            serving = {r["serving"] for r in releases["replicas"] if r["lease"] == "valid"}
            if swap.confirmed is None and moving and serving == {releases["live"]} != {before}:
                swap.confirmed, swap.after = now, releases["live"]
            if status == "dead":
                raise RuntimeError(f"the deletion {request['id']} is dead")
            swap.completed = now if status == "completed" else None
            time.sleep(_POLL)


def overlapping(samples: Sequence[Sample], swaps: Sequence[Swap]) -> list[Sample]:
    """Return those that were under way at any moment between prepare and confirmation."""
    windows = [(s.prepare, s.confirmed) for s in swaps if s.prepare and s.confirmed]
    return [
        one
        for one in samples
        if any(
            one.due < end and one.due + one.milliseconds / 1000 > start for start, end in windows
        )
    ]


def training(samples: Sequence[Sample], swaps: Sequence[Swap]) -> list[Sample]:
    """Return those that were due while a worker made the next release."""
    return [
        one for one in samples if any(s.asked <= one.due < (s.prepare or s.asked) for s in swaps)
    ]


def swap_figures(samples: Sequence[Sample], swaps: Sequence[Swap]) -> list[dict[str, Any]]:
    """Return of each deletion how long it took until the old release's last answer."""
    found = []
    for swap in swaps:
        old = [one for one in samples if one.release == swap.before]
        last = max((one.due + one.milliseconds / 1000 for one in old), default=None)
        found.append(
            {
                "seconds_to_prepare": swap.prepare and swap.prepare - swap.asked,
                "seconds_of_swap": swap.confirmed
                and swap.prepare
                and swap.confirmed - swap.prepare,
                "seconds_to_completed": swap.completed and swap.completed - swap.asked,
                "seconds_to_last_old_answer": None if last is None else last - swap.asked,
            }
        )
    return found


def enough(samples: Sequence[Sample]) -> bool:
    """Say whether a 99th percentile of these says anything."""
    return len(samples) >= _LISTS_FEWEST
