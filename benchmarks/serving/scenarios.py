"""Run load against a service from a second process, with and without deletions."""

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
#: With fewer samples a 99th percentile is meaningless.
_MIN_SAMPLES: Final = 20


def run_load(plan: Plan) -> list[Sample]:
    """Run the plan in a separate process."""
    return run_load_until(plan, lambda: False)


def run_load_until(plan: Plan, over: Callable[[], bool]) -> list[Sample]:
    """Run the plan in a separate process, which ends early when `over` returns true."""
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"],
            stdin=subprocess.PIPE,
            stdout=output,
            text=True,
            cwd=ROOT,
        ) as generator,
    ):
        try:
            _follow(generator, plan, over)
        except BaseException:
            generator.kill()
            raise
        if generator.returncode:
            raise RuntimeError(f"the load generator failed with status {generator.returncode}")
        output.seek(0)
        return [Sample(**sample) for sample in json.load(output)]


def _follow(generator: subprocess.Popen[str], plan: Plan, over: Callable[[], bool]) -> None:
    """Send the plan to the process, and close its standard input to end it."""
    if generator.stdin is None:
        raise RuntimeError("the load generator has no standard input")
    generator.stdin.write(json.dumps(asdict(plan)) + "\n")
    generator.stdin.flush()
    while generator.poll() is None and not over():
        time.sleep(_POLL)
    generator.stdin.close()
    generator.wait()


def summary(name: str, clients: int, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """Return the row of one scenario; latencies are of answered requests only."""
    took = np.array([s.milliseconds for s in samples if s.outcome == "answered"])
    p50, p99, p999 = np.percentile(took, (50, 99, 99.9)) if len(took) else (np.nan,) * 3
    return {
        "name": name,
        "clients": clients,
        "requests": len(samples),
        "failed": sum(s.outcome == "failed" for s in samples),
        "refused": sum(s.outcome == "refused" for s in samples),
        "throughput": len(took) / seconds if seconds else None,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(took.max()) if len(took) else np.nan,
        "releases": Counter(s.release for s in samples if s.release),
    }


@dataclass(slots=True)
class Swap:
    """Times of the steps of one deletion, in Unix time, and the releases before and after."""

    requested: float
    prepare: float | None = None
    confirmed: float | None = None
    completed: float | None = None
    before: str | None = None
    after: str | None = None


@dataclass(slots=True)
class Deletions:
    """Requests deletions in sequence on a thread and records the times of each swap."""

    service: Service
    users: Sequence[str]
    swaps: list[Swap] = field(default_factory=list)
    error: Exception | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def problem(self) -> str | None:
        """Wait for the last deletion; return the error of the thread, or None."""
        if self._thread is not None:
            self._thread.join()
        return None if self.error is None else f"{type(self.error).__name__}: {self.error}"

    @property
    def over(self) -> bool:
        """Return whether the last deletion is completed, or one has failed."""
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for user in self.users:
                self._forget(user)
        except Exception as error:  # noqa: BLE001 -- reported with the scenario
            self.error = error

    def _forget(self, user: str) -> None:
        before = self.service.get("/releases", limit=1)["live"]
        request = self.service.call("POST", "/forget", json={"user_id": user})
        swap = Swap(requested=time.time(), before=before)
        self.swaps.append(swap)
        while swap.completed is None:
            if time.time() - swap.requested > _SWAP_TIMEOUT:
                raise TimeoutError(f"the deletion {request['id']} did not complete")
            # The status is read first: a completed deletion is then also seen as confirmed.
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
    """Return the samples that overlap a swap, from prepare to confirmation."""
    windows = [(s.prepare, s.confirmed) for s in swaps if s.prepare and s.confirmed]
    return [
        sample
        for sample in samples
        if any(
            sample.due < end and sample.due + sample.milliseconds / 1000 > start
            for start, end in windows
        )
    ]


def training(samples: Sequence[Sample], swaps: Sequence[Swap]) -> list[Sample]:
    """Return the samples that were due between a deletion request and the swap's start."""
    return [
        sample
        for sample in samples
        if any(s.requested <= sample.due < (s.prepare or s.requested) for s in swaps)
    ]


def swap_figures(samples: Sequence[Sample], swaps: Sequence[Swap]) -> list[dict[str, Any]]:
    """Return the seconds of each deletion's steps, and until the old release's last answer."""
    figures = []
    for swap in swaps:
        old = [sample for sample in samples if sample.release == swap.before]
        last = max((sample.due + sample.milliseconds / 1000 for sample in old), default=None)
        figures.append(
            {
                "seconds_to_prepare": swap.prepare and swap.prepare - swap.requested,
                "seconds_of_swap": swap.confirmed
                and swap.prepare
                and swap.confirmed - swap.prepare,
                "seconds_to_completed": swap.completed and swap.completed - swap.requested,
                "seconds_to_last_old_answer": None if last is None else last - swap.requested,
            }
        )
    return figures


def has_enough_samples(samples: Sequence[Sample]) -> bool:
    """Return whether a 99th percentile of the samples is meaningful."""
    return len(samples) >= _MIN_SAMPLES
