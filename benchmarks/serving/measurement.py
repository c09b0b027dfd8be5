"""`lethe benchmark serving`: sets a service up, has it asked, and writes what was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from app.cli.demo.command import INSTALLATION_VARIABLES
from app.cli.installation import open_installation
from app.cli.launch import gateway as gateway_process
from app.cli.launch import listening, service_at, wait_until_up, worker
from app.cli.processes import ROOT, Children
from app.domain.json_values import plain
from app.logs import configure_logging
from app.settings import Settings
from benchmarks.gateways import gateway_in_process
from benchmarks.serving import inprocess, report, scenarios
from benchmarks.serving.load import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from app.cli.client import Service
    from benchmarks.serving.report import Results

_HOST: Final = "127.0.0.1"
_SWAPS: Final = 3
_PEOPLE: Final = 400
_LEAST_RATINGS: Final = 20
_READY_SECONDS: Final = 120.0
_OPEN_CLIENTS: Final = 64
_HALF: Final = 0.5
#: No longer than this is asked while people are being forgotten.
_LONGEST: Final = 600.0


class Bar(Protocol):
    """Progress on a screen."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Say what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be measured."""

    data: Path
    home: Path
    out: Path
    clients: tuple[int, ...] = (1, 8, 64)
    seconds: float = 10.0
    #: Gateway processes on one socket.
    replicas: int = 1


class SetUpFailedError(RuntimeError):
    """The benchmark's own service could not be set up."""


def run(options: Options, bar: Bar) -> Results:
    """Measure everything, write it into `out`, and return it."""
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)

    def at(text: str) -> None:
        bar.at(text, time.monotonic() - began, None)

    with _environment(options.home) as settings:
        configure_logging(settings.log_level)
        at("importing and training, once per home")
        _prepare(settings, options.data)
        people = _people(settings)
        at("one request, part by part")
        with gateway_in_process(settings) as made:
            parts = inprocess.parts(made, people)
            profile = inprocess.profile(made, people)
            at("scoring against the naive way")
            scoring = inprocess.ratios(made, people=4, repetitions=5)
        at("growth")
        growth = inprocess.growth()
        rows, swaps, http = _over_http(settings, options, people, at)
    found: Results = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no accelerator used",
        "replicas": options.replicas,
        "scenarios": rows,
        "ratios": {
            "naive": scoring["milliseconds"]["naive"] / scoring["milliseconds"]["scored"],
            "padded_batch": scoring["milliseconds"]["padded"] / scoring["milliseconds"]["scored"],
            "overhead": http["p50_ms"] / parts["model"] - 1,
            **{key: value for key, value in http.items() if key == "swap_p99"},
        },
        "swaps": swaps,
        "parts": parts,
        "scoring": scoring,
        "growth": growth,
        "seconds": time.monotonic() - began,
    }
    results: Results = plain(found)
    (options.out / "profile.txt").write_text(profile, encoding="utf-8")
    report.write(results, options.out)
    document = json.dumps(results, indent=1, allow_nan=False)
    (options.out / "results.json").write_text(document + "\n", encoding="utf-8")
    return results


@contextmanager
def _environment(home: Path) -> Iterator[Settings]:
    """Let nothing of another installation leak in; what tunes serving is measured as it is set."""
    before = dict(os.environ)
    for name in INSTALLATION_VARIABLES:
        os.environ.pop(name, None)
    os.environ |= {
        "LETHE_HOME": str(home),
        "LETHE_CANCEL_WINDOW": "0",
        "LETHE_BATCH_SECONDS": "0",
        "LETHE_POLL_SECONDS": "0.1",
        "LETHE_LOG_LEVEL": "WARNING",
    }
    try:
        yield Settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _prepare(settings: Settings, data: Path) -> None:
    """Import and train, unless this home has a release already."""
    settings.home.mkdir(parents=True, exist_ok=True)
    for arguments in (["import", str(data)], ["train"]):
        if _live(settings) is not None:
            return
        done = subprocess.run(  # noqa: S603 -- our own command
            [sys.executable, "-m", "app.cli", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        if done.returncode:
            raise SetUpFailedError(f"lethe {arguments[0]} failed: {done.stdout[-500:]}")


def _live(settings: Settings) -> str | None:
    with open_installation(settings) as installation, installation.uow(write=False) as uow:
        return uow.releases.alias().live


def _people(settings: Settings) -> list[str]:
    """Return people to ask for, in a fixed order."""
    with open_installation(settings) as installation, installation.uow(write=False) as uow:
        found = [user.id for user in uow.people.users()]
        found = [u for u in found if len(uow.people.history(u)) >= _LEAST_RATINGS]
    return found[:_PEOPLE]


def _over_http(
    settings: Settings, options: Options, people: Sequence[str], at: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Start gateway and worker, and run all scenarios."""
    logs = settings.home / "logs"
    forgotten, asked = people[:_SWAPS], people[_SWAPS:]
    with listening(_HOST, 0) as held, Children() as children:
        started = [
            children.start(gateway_process(held, log=logs / f"gateway-{number}.log"))
            for number in range(options.replicas)
        ]
        with service_at(held, settings) as service:
            wait_until_up(service, started[0])
            _wait_until_ready(service, options.replicas)
            plan = Plan(
                host=_HOST,
                port=held.getsockname()[1],
                users=asked,
                clients=1,
                seconds=options.seconds,
            )
            rows = _closed(plan, options, at)
            capacity = max(row["throughput"] for row in rows if row["name"] == "closed loop")
            children.start(worker(log=logs / "worker.log"))
            more, swaps, ratio = _open(plan, service, forgotten, capacity, at)
    one = next(row for row in rows if row["name"] == "closed loop" and row["clients"] == 1)
    return rows + more, swaps, {"p50_ms": one["p50_ms"], **ratio}


def _closed(plan: Plan, options: Options, at: Any) -> list[dict[str, Any]]:
    rows = []
    floor = replace(plan, path="/healthz", seconds=min(plan.seconds, 3.0))
    at("what asking alone costs")
    rows.append(scenarios.summary("floor: GET /healthz", 1, scenarios.ask(floor), floor.seconds))
    for clients in options.clients:
        at(f"closed loop, {clients} clients")
        samples = scenarios.ask(replace(plan, clients=clients))
        rows.append(scenarios.summary("closed loop", clients, samples, plan.seconds))
    return rows


def _open(
    plan: Plan, service: Service, forgotten: Sequence[str], capacity: float, at: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Ask at half of the capacity, alone and while people are forgotten one after the other."""
    steady = replace(plan, clients=_OPEN_CLIENTS, rate=_HALF * capacity)
    at("open loop at half of capacity")
    calm = scenarios.ask(steady)
    watch = scenarios.Watch(service, forgotten)
    watch.start()
    at(f"open loop while {len(forgotten)} people are forgotten, one after the other")
    began = time.monotonic()
    during = scenarios.ask_until(replace(steady, warm_up=0.0, seconds=_LONGEST), lambda: watch.over)
    seconds = time.monotonic() - began
    problem = watch.problem()
    overlap = scenarios.overlapping(during, watch.swaps)
    trained = scenarios.training(during, watch.swaps)
    rows = [
        scenarios.summary("open loop, steady", _OPEN_CLIENTS, calm, plan.seconds),
        scenarios.summary("open loop, all of the deletions", _OPEN_CLIENTS, during, seconds),
        scenarios.summary("of those: during training", _OPEN_CLIENTS, trained, 0.0),
        scenarios.summary("of those: prepare to confirmed", _OPEN_CLIENTS, overlap, 0.0),
    ]
    if problem is not None:
        # What was measured until then is told all the same, and that it is not all.
        rows[1] |= {"name": f"{rows[1]['name']}: FAILED, {problem}", "error": problem}
    figures = scenarios.swap_figures(during, watch.swaps)
    if not scenarios.enough(overlap):
        return rows, figures, {}
    return rows, figures, {"swap_p99": rows[3]["p99_ms"] / rows[0]["p99_ms"]}


def _wait_until_ready(service: Service, replicas: int) -> None:
    """Return once so many replicas serve the live release."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        found = service.get("/releases", limit=1)
        ready = [
            one
            for one in found["replicas"]
            if one["lease"] == "valid" and one["serving"] == found["live"]
        ]
        if len(ready) == replicas:
            return
        time.sleep(0.2)
    raise SetUpFailedError(f"{replicas} gateways did not get ready in {_READY_SECONDS:.0f} s")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 -- whichever git there is
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.stdout.strip() or "unknown"
