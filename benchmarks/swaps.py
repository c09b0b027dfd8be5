"""Swaps under load: real replicas in processes of their own, real (untrained) compact releases.

    python -m benchmarks.swaps --swaps 1000 --replicas 2 --out docs/results/swaps

Counts failed and torn answers (scores that are not those of the release that the answer names),
and compares answers that overlap a swap, from prepare to confirmation, with the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

from app.cli.processes import Child, Children
from app.domain.recommendations import RecommendationQuery
from app.parent_watch import stop_with_parent
from benchmarks.gateways import gateway_in_process
from benchmarks.installations import USERS, Installation, settings_of
from worker.process import GRACE_SECONDS, be_nice, stop_on_signals

if TYPE_CHECKING:
    from app.domain.recommendations import Recommendation
    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica

#: Of so many answers, one is written down in full and recomputed.
CHECK_EVERY: Final = 10
#: Scores of one release differ by less when computed in another batch, and of two by more.
TOLERANCE: Final = 1e-4
CLIENTS: Final = 2
ANSWERS_PER_SECOND: Final = 10.0
_PAUSE: Final = 0.1
#: Of the thread that publishes, as of a worker: what is measured is serving.
_NICENESS: Final = 19
_TIMEOUT: Final = 60.0


def ask(service: RecommendService, user_id: str) -> Recommendation:
    """Ask for ten items: the one place that knows how."""
    return service.answer(RecommendationQuery(person=user_id, n=10))


class Load:
    """Clients of one replica, each asking at fixed times whether or not answers are late."""

    def __init__(self, service: RecommendService, replica: Replica, path: Path) -> None:
        self._service = service
        self._replica = replica
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop; what comes is written down as lines of JSON."""
        clients = [
            threading.Thread(target=self._client, args=(number, stop)) for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        process = psutil.Process()
        while not stop.wait(1.0):
            self._note({"rss": process.memory_info().rss, "swaps": self._replica.swaps})
        for client in clients:
            client.join()
        self._file.close()

    def _client(self, number: int, stop: threading.Event) -> None:
        due = time.monotonic() + number / ANSWERS_PER_SECOND / CLIENTS
        for count in itertools.count():
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            note: dict[str, Any] = {"due": due}
            try:
                answer = ask(self._service, USERS[(count + number) % len(USERS)])
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is counted as a failure
                note["failed"] = type(error).__name__
            else:
                note["release"] = answer.release
                if answer.release is not None and count % CHECK_EVERY == 0:
                    note["user"] = answer.user_id
                    note["scores"] = {one.item_id: one.score for one in answer.items}
            note["end"] = time.monotonic()
            self._note(note)
            due += 1 / ANSWERS_PER_SECOND

    def _note(self, note: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(note) + "\n")


def serve(home: Path, log: Path) -> None:
    """Be one replica under load until told to stop."""
    stop = threading.Event()
    stop_on_signals(stop)
    stop_with_parent(stop.set, grace_seconds=GRACE_SECONDS)
    with gateway_in_process(settings_of(home)) as made:
        Load(made.recommender, made.replica, log).run(stop)


def soak(
    home: Path,
    *,
    swaps: int,
    replicas: int,
    seconds: float = float("inf"),
    pause: float = _PAUSE,
    niceness: int = 0,
) -> dict[str, Any]:
    """Swap so many times, or until the time is up, and return the figures.

    `niceness` is for the thread that calls, for good: it publishes the releases.
    """
    installation = Installation.make(home)
    installation.flip(*installation.publish(0))
    logs = [home / f"replica-{number}.jsonl" for number in range(replicas)]
    moments: list[dict[str, Any]] = []
    with Children() as children:
        for log in logs:
            children.start(
                Child(
                    name="replica",
                    module="benchmarks.swaps",
                    arguments=["--serve", str(home), "--log", str(log)],
                )
            )
        be_nice(niceness)
        # Clients ask a second without any swap before the first one.
        _wait(lambda: all(log.exists() and len(log.read_text()) > 1000 for log in logs))  # noqa: PLR2004
        begun = time.monotonic()
        for seed in range(1, swaps + 1):
            moments.append(_swap(installation, seed, replicas))
            time.sleep(pause)
            if time.monotonic() - begun > seconds:
                break
        taken = time.monotonic() - begun
    notes = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    return {
        "replicas": replicas,
        "swaps": len(moments),
        "seconds": round(taken, 1),
        "pause": pause,
        **figures(installation, moments, notes),
    }


def _swap(installation: Installation, seed: int, replicas: int) -> dict[str, Any]:
    """Take one release through its roll-out, and return when what happened."""
    old = installation.live()
    prepare = time.monotonic()
    lease, name = installation.publish(seed)
    _wait(lambda: installation.prepared(name) == replicas)
    flip = time.monotonic()
    installation.flip(lease, name)
    _wait(lambda: installation.confirmed(name) == replicas)
    return {
        "old": old, "prepare": prepare, "flip": flip, "drained": time.monotonic(), "new": name
    }  # fmt: skip


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a replica has not followed")
        time.sleep(0.01)


def figures(
    installation: Installation, moments: list[dict[str, Any]], notes: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return what the notes of all replicas say."""
    every = [note for one in notes for note in one if "due" in note]
    good = [note for note in every if "failed" not in note]
    failures = [note["failed"] for note in every if "failed" in note]
    checked = [note for note in good if "scores" in note]
    unranked = sum(note["release"] is None for note in good)
    before = {moment["new"]: moment["old"] for moment in moments}
    during, others = _split(good, moments)
    return {
        "answers": len(every),
        "failed": len(failures),
        "failures": {kind: failures.count(kind) for kind in set(failures)},
        "not_ranked_by_a_release": unranked,
        "checked": len(checked),
        "torn": sum(not agrees(installation, note, note["release"]) for note in checked),
        # The check can fail: with the weights of the release before, hardly an answer passes.
        "checked_against_the_release_before": sum(n["release"] in before for n in checked),
        "agree_with_the_release_before": sum(
            agrees(installation, note, before[note["release"]])
            for note in checked
            if note["release"] in before
        ),
        "milliseconds_during_swaps": _quantiles(during),
        "milliseconds_otherwise": _quantiles(others),
        "replica": [_of_replica(one, moments) for one in notes],
    }


def agrees(installation: Installation, note: dict[str, Any], release: str) -> bool:
    """Say whether the scores of an answer are those of this release's weights."""
    found = installation.scores(release, note["user"], list(note["scores"]))
    return bool(np.allclose(found, list(note["scores"].values()), atol=TOLERANCE, rtol=0))


def _split(
    good: list[dict[str, Any]], moments: list[dict[str, Any]]
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of answers that overlap prepare to drained, and of the others."""
    starts = np.array([moment["prepare"] for moment in moments])
    ends = np.array([moment["drained"] for moment in moments])
    during: list[float] = []
    others: list[float] = []
    for note in good:
        # Swaps follow one another: only the last one begun before the answer's end can overlap.
        last = int(np.searchsorted(starts, note["end"])) - 1
        overlaps = last >= 0 and ends[last] >= note["due"]
        (during if overlaps else others).append(1e3 * (note["end"] - note["due"]))
    return during, others


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"answers": 0}
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"answers": len(values), "p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def _of_replica(notes: list[dict[str, Any]], moments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one replica's memory over time, and how long it answered from old releases."""
    last: dict[str, float] = {}
    for note in notes:
        if note.get("release") is not None:
            last[note["release"]] = max(last.get(note["release"], 0.0), note["end"])
    after = [1e3 * max(0.0, last.get(m["old"], 0.0) - m["flip"]) for m in moments]
    memory = [note for note in notes if "rss" in note]
    return {
        "milliseconds_from_flip_to_last_old_answer": {
            "p50": round(float(np.median(after)), 2), "max": round(max(after), 2)
        },
        "rss_mb_per_100_swaps_in_the_second_half": _growth(memory[len(memory) // 2 :]),
        "rss_mb": [
            {"swaps": each["swaps"], "rss": round(each["rss"] / 1e6, 1)}
            for each in memory[:: max(1, len(memory) // 10)] + memory[-1:]
        ],
    }  # fmt: skip


def _growth(memory: list[dict[str, Any]]) -> float | None:
    """Return the slope of a line through the memory in MB per 100 swaps; None for one point."""
    swaps = np.array([each["swaps"] for each in memory], dtype=np.float64)
    away = swaps - swaps.mean() if len(swaps) else swaps
    if not away.any():
        return None
    megabytes = np.array([each["rss"] / 1e6 for each in memory])
    return round(float(100 * (away @ megabytes) / (away @ away)), 3)


def main() -> None:
    """Run the soak, or be one of its replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end by then")
    parser.add_argument("--pause", type=float, default=_PAUSE, help="seconds between swaps")
    parser.add_argument("--out", type=Path, default=Path("docs/results/swaps"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.log)
        return
    with tempfile.TemporaryDirectory() as home:
        found = soak(
            Path(home),
            swaps=options.swaps,
            replicas=options.replicas,
            seconds=options.seconds,
            pause=options.pause,
            niceness=_NICENESS,
        )
    options.out.mkdir(parents=True, exist_ok=True)
    found["load_average_at_the_end"] = os.getloadavg()[0]
    text = json.dumps(found, indent=1) + "\n"
    (options.out / f"results-{options.replicas}.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
