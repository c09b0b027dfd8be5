"""Benchmark swaps under load, with replicas in separate processes and untrained releases.

    python -m benchmarks.swaps --swaps 1000 --replicas 2 --out docs/results/swaps

Counts failed and torn answers. A torn answer has scores that are not those of the release it
names. Answers that overlap a swap, from prepare to confirmation, are compared with the others.
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
from benchmarks.installations import USERS, Installation, gateway_in_process, settings_of
from worker.process import GRACE_SECONDS, be_nice, stop_on_signals

if TYPE_CHECKING:
    from app.domain.recommendations import Recommendation
    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica

#: One in this many answers is logged in full and recomputed.
CHECK_EVERY: Final = 10
#: Scores of one release differ by less between batches; scores of two releases differ by more.
TOLERANCE: Final = 1e-4
CLIENTS: Final = 2
ANSWERS_PER_SECOND: Final = 10.0
_PAUSE: Final = 0.1
#: Niceness of the publishing thread, like a worker's, so that only serving is measured.
_NICENESS: Final = 19
_TIMEOUT: Final = 60.0


def request_recommendation(service: RecommendService, user_id: str) -> Recommendation:
    """Request ten items for a user."""
    return service.answer(RecommendationQuery(person=user_id, n=10))


class Load:
    """Clients of one replica that send requests at fixed times, even while answers are late."""

    def __init__(self, service: RecommendService, replica: Replica, path: Path) -> None:
        self._service = service
        self._replica = replica
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Send requests until `stop` is set; log answers and memory as lines of JSON."""
        clients = [
            threading.Thread(target=self._client, args=(number, stop)) for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        process = psutil.Process()
        while not stop.wait(1.0):
            self._write({"rss": process.memory_info().rss, "swaps": self._replica.swaps})
        for client in clients:
            client.join()
        self._file.close()

    def _client(self, number: int, stop: threading.Event) -> None:
        due = time.monotonic() + number / ANSWERS_PER_SECOND / CLIENTS
        for count in itertools.count():
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            record: dict[str, Any] = {"due": due}
            try:
                answer = request_recommendation(self._service, USERS[(count + number) % len(USERS)])
            except Exception as error:  # noqa: BLE001 -- every error counts as a failed answer
                record["failed"] = type(error).__name__
            else:
                record["release"] = answer.release
                if answer.release is not None and count % CHECK_EVERY == 0:
                    record["user"] = answer.user_id
                    record["scores"] = {item.item_id: item.score for item in answer.items}
            record["end"] = time.monotonic()
            self._write(record)
            due += 1 / ANSWERS_PER_SECOND

    def _write(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(record) + "\n")


def serve(home: Path, log: Path) -> None:
    """Run one replica under load until a signal or the end of the parent."""
    stop = threading.Event()
    stop_on_signals(stop)
    stop_with_parent(stop.set, grace_seconds=GRACE_SECONDS)
    with gateway_in_process(settings_of(home)) as gateway:
        Load(gateway.recommender, gateway.replica, log).run(stop)


def soak(
    home: Path,
    *,
    swaps: int,
    replicas: int,
    seconds: float = float("inf"),
    pause: float = _PAUSE,
    niceness: int = 0,
) -> dict[str, Any]:
    """Swap `swaps` times, or until `seconds` have passed, and return the figures.

    `niceness` permanently applies to the calling thread, which publishes the releases.
    """
    installation = Installation.make(home)
    installation.flip(*installation.publish(0))
    logs = [home / f"replica-{number}.jsonl" for number in range(replicas)]
    swap_times: list[dict[str, Any]] = []
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
        # The clients run for about a second before the first swap.
        _wait(lambda: all(log.exists() and len(log.read_text()) > 1000 for log in logs))  # noqa: PLR2004
        started = time.monotonic()
        for seed in range(1, swaps + 1):
            swap_times.append(_swap(installation, seed, replicas))
            time.sleep(pause)
            if time.monotonic() - started > seconds:
                break
        elapsed = time.monotonic() - started
    records = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    return {
        "replicas": replicas,
        "swaps": len(swap_times),
        "seconds": round(elapsed, 1),
        "pause": pause,
        **figures(installation, swap_times, records),
    }


def _swap(installation: Installation, seed: int, replicas: int) -> dict[str, Any]:
    """Roll out one release and return the times of the steps."""
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
            raise TimeoutError(f"a replica did not follow within {_TIMEOUT:.0f} s")
        time.sleep(0.01)


def figures(
    installation: Installation,
    swap_times: list[dict[str, Any]],
    records: list[list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return the figures of the records, one list per replica."""
    answers = [record for replica in records for record in replica if "due" in record]
    good = [answer for answer in answers if "failed" not in answer]
    failures = [answer["failed"] for answer in answers if "failed" in answer]
    checked = [answer for answer in good if "scores" in answer]
    unranked = sum(answer["release"] is None for answer in good)
    previous = {swap["new"]: swap["old"] for swap in swap_times}
    during, others = _split(good, swap_times)
    return {
        "answers": len(answers),
        "failed": len(failures),
        "failures": {kind: failures.count(kind) for kind in set(failures)},
        "not_ranked_by_a_release": unranked,
        "checked": len(checked),
        "torn": sum(not agrees(installation, answer, answer["release"]) for answer in checked),
        # A control of the check: few answers agree with the weights of the previous release.
        "checked_against_the_release_before": sum(a["release"] in previous for a in checked),
        "agree_with_the_release_before": sum(
            agrees(installation, answer, previous[answer["release"]])
            for answer in checked
            if answer["release"] in previous
        ),
        "milliseconds_during_swaps": _quantiles(during),
        "milliseconds_otherwise": _quantiles(others),
        "replica": [_replica_figures(replica, swap_times) for replica in records],
    }


def agrees(installation: Installation, answer: dict[str, Any], release: str) -> bool:
    """Return whether the scores of an answer are those of the release's weights."""
    expected = installation.scores(release, answer["user"], list(answer["scores"]))
    return bool(np.allclose(expected, list(answer["scores"].values()), atol=TOLERANCE, rtol=0))


def _split(
    answers: list[dict[str, Any]], swap_times: list[dict[str, Any]]
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of answers that overlap a swap, and of the other answers."""
    starts = np.array([swap["prepare"] for swap in swap_times])
    ends = np.array([swap["drained"] for swap in swap_times])
    during: list[float] = []
    others: list[float] = []
    for answer in answers:
        # Swaps do not overlap each other, so only the last swap before the answer's end counts.
        last = int(np.searchsorted(starts, answer["end"])) - 1
        overlaps = last >= 0 and ends[last] >= answer["due"]
        (during if overlaps else others).append(1e3 * (answer["end"] - answer["due"]))
    return during, others


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"answers": 0}
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"answers": len(values), "p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def _replica_figures(
    records: list[dict[str, Any]], swap_times: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a replica's memory over time, and how long it answered from old releases."""
    last_answer: dict[str, float] = {}
    for record in records:
        release = record.get("release")
        if release is not None:
            last_answer[release] = max(last_answer.get(release, 0.0), record["end"])
    after = [1e3 * max(0.0, last_answer.get(s["old"], 0.0) - s["flip"]) for s in swap_times]
    memory = [record for record in records if "rss" in record]
    return {
        "milliseconds_from_flip_to_last_old_answer": {
            "p50": round(float(np.median(after)), 2), "max": round(max(after), 2)
        },
        "rss_mb_per_100_swaps_in_the_second_half": _growth(memory[len(memory) // 2 :]),
        "rss_mb": [
            {"swaps": sample["swaps"], "rss": round(sample["rss"] / 1e6, 1)}
            for sample in memory[:: max(1, len(memory) // 10)] + memory[-1:]
        ],
    }  # fmt: skip


def _growth(memory: list[dict[str, Any]]) -> float | None:
    """Return the regression slope of memory in MB per 100 swaps, or None for one point."""
    swaps = np.array([sample["swaps"] for sample in memory], dtype=np.float64)
    deviations = swaps - swaps.mean() if len(swaps) else swaps
    if not deviations.any():
        return None
    megabytes = np.array([sample["rss"] / 1e6 for sample in memory])
    return round(float(100 * (deviations @ megabytes) / (deviations @ deviations)), 3)


def main() -> None:
    """Run the benchmark, or one of its replicas, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time limit")
    parser.add_argument("--pause", type=float, default=_PAUSE, help="seconds between swaps")
    parser.add_argument("--out", type=Path, default=Path("docs/results/swaps"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.log)
        return
    with tempfile.TemporaryDirectory() as directory:
        results = soak(
            Path(directory) / "home",
            swaps=options.swaps,
            replicas=options.replicas,
            seconds=options.seconds,
            pause=options.pause,
            niceness=_NICENESS,
        )
    options.out.mkdir(parents=True, exist_ok=True)
    results["load_average_at_the_end"] = os.getloadavg()[0]
    text = json.dumps(results, indent=1) + "\n"
    (options.out / f"results-{options.replicas}.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
