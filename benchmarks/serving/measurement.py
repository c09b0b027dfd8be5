"""`lethe benchmark serving`: set up a service, measure it under load, and write the results."""

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
from app.settings import Settings, read_settings
from benchmarks.installations import gateway_in_process
from benchmarks.serving import inprocess, report, scenarios
from benchmarks.serving.forgets import Forgets
from benchmarks.serving.load import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from app.cli.client import Service
    from benchmarks.serving.report import Results

_HOST: Final = "127.0.0.1"
_DELETIONS: Final = 3
_MAX_USERS: Final = 400
_MIN_RATINGS: Final = 20
_READY_SECONDS: Final = 120.0
_OPEN_CLIENTS: Final = 64
#: Request rate of the open loop, as a share of the closed loop's capacity.
_LOAD: Final = 0.5
#: Maximum seconds of load while users are being forgotten.
_MAX_SECONDS: Final = 600.0


class Bar(Protocol):
    """Progress display."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Show the current step, and the seconds spent and left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    data: Path
    home: Path
    out: Path
    clients: tuple[int, ...] = (1, 8, 64)
    seconds: float = 10.0
    #: Gateway processes on one socket.
    replicas: int = 1
    #: The URL of a PostgreSQL database; None: SQLite in `home`.
    database: str | None = None
    #: Deletions per second of the last scenario; 0: no such scenario.
    forgets_per_second: float = 0.0


class SetUpFailedError(RuntimeError):
    """The benchmark's own service could not be set up."""


def run(options: Options, bar: Bar) -> Results:
    """Run all measurements, write the results into `out`, and return them."""
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)

    def at(text: str) -> None:
        bar.at(text, time.monotonic() - started, None)

    with environment(options.home, options.database) as settings:
        configure_logging(settings.log_level)
        at("importing and training, unless done before")
        _prepare(settings, options.data)
        users = _users(settings)
        measured_users = users[:_MAX_USERS]
        at("parts of one request")
        with gateway_in_process(settings) as gateway:
            parts = inprocess.parts(gateway, measured_users)
            profile = inprocess.profile(gateway, measured_users)
            at("scoring against the naive method")
            scoring = inprocess.ratios(gateway, users=4, repetitions=5)
        at("growth")
        growth = inprocess.growth()
        rows, swaps, http = _over_http(settings, options, users, at)
    measured: Results = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no accelerator used",
        "replicas": options.replicas,
        "database": "SQLite" if options.database is None else "PostgreSQL",
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
        "seconds": time.monotonic() - started,
    }
    results: Results = plain(measured)
    (options.out / "profile.txt").write_text(profile, encoding="utf-8")
    report.write(results, options.out)
    document = json.dumps(results, indent=1, allow_nan=False)
    (options.out / "results.json").write_text(document + "\n", encoding="utf-8")
    return results


@contextmanager
def environment(home: Path, database: str | None = None) -> Iterator[Settings]:
    """Set the environment for `home` in the block; settings that tune serving stay as they are."""
    previous = dict(os.environ)
    for name in (*INSTALLATION_VARIABLES, "LETHE_HASH_KEY"):
        os.environ.pop(name, None)
    os.environ |= {
        "LETHE_HOME": str(home),
        "LETHE_CANCEL_WINDOW": "0",
        "LETHE_BATCH_SECONDS": "0",
        "LETHE_POLL_SECONDS": "0.1",
        "LETHE_LOG_LEVEL": "WARNING",
    }
    if database is not None:
        os.environ["LETHE_DATABASE_URL"] = database
    try:
        yield read_settings()
    finally:
        os.environ.clear()
        os.environ.update(previous)


def _prepare(settings: Settings, data: Path) -> None:
    """Import and train, unless the data directory already has a release."""
    settings.home.mkdir(parents=True, exist_ok=True)
    for arguments in (["import", str(data)], ["train"]):
        if _live_release(settings) is not None:
            return
        completed = subprocess.run(  # noqa: S603 -- our own command
            [sys.executable, "-m", "app.cli", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        if completed.returncode:
            raise SetUpFailedError(f"lethe {arguments[0]} failed: {completed.stdout[-500:]}")


def _live_release(settings: Settings) -> str | None:
    with open_installation(settings) as installation, installation.uow(write=False) as uow:
        return uow.releases.alias().live


def _users(settings: Settings) -> list[str]:
    """Return the users for the load, in a fixed order."""
    with open_installation(settings) as installation, installation.uow(write=False) as uow:
        users = [user.id for user in uow.people.users()]
        return [user for user in users if len(uow.people.history(user)) >= _MIN_RATINGS]


def _over_http(
    settings: Settings, options: Options, users: Sequence[str], at: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Start gateways and worker and run all scenarios; return rows, swaps and ratios."""
    logs = settings.home / "logs"
    to_forget, served = users[:_DELETIONS], users[_DELETIONS:_MAX_USERS]
    with listening(_HOST, 0) as server, Children() as children:
        started = [
            children.start(gateway_process(server, log=logs / f"gateway-{number}.log"))
            for number in range(options.replicas)
        ]
        with service_at(server, settings) as service:
            wait_until_up(service, started[0])
            wait_until_ready(service, options.replicas)
            plan = Plan(
                host=_HOST,
                port=server.getsockname()[1],
                users=served,
                clients=1,
                seconds=options.seconds,
            )
            rows = _closed_loops(plan, options, at)
            capacity = max(row["throughput"] for row in rows if row["name"] == "closed loop")
            children.start(worker(log=logs / "worker.log"))
            open_rows, swaps, ratio = _open_loops(plan, service, to_forget, capacity, at)
            if options.forgets_per_second:
                steady = replace(plan, clients=_OPEN_CLIENTS, rate=_LOAD * capacity)
                at(f"open loop with {options.forgets_per_second:g} deletions per second")
                open_rows += _forget_loop(
                    steady, service, users[_MAX_USERS:], options.forgets_per_second
                )
    single = next(row for row in rows if row["name"] == "closed loop" and row["clients"] == 1)
    return rows + open_rows, swaps, {"p50_ms": single["p50_ms"], **ratio}


def _closed_loops(plan: Plan, options: Options, at: Any) -> list[dict[str, Any]]:
    rows = []
    floor = replace(plan, path="/healthz", seconds=min(plan.seconds, 3.0))
    at("cost of the load generator alone")
    samples = scenarios.run_load(floor)
    rows.append(scenarios.summary("floor: GET /healthz", 1, samples, floor.seconds))
    for clients in options.clients:
        at(f"closed loop, {clients} clients")
        samples = scenarios.run_load(replace(plan, clients=clients))
        rows.append(scenarios.summary("closed loop", clients, samples, plan.seconds))
    return rows


def _open_loops(
    plan: Plan, service: Service, to_forget: Sequence[str], capacity: float, at: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Run load at half of the capacity, with and without a sequence of deletions."""
    steady = replace(plan, clients=_OPEN_CLIENTS, rate=_LOAD * capacity)
    at("open loop at half of capacity")
    calm = scenarios.run_load(steady)
    deletions = scenarios.Deletions(service, to_forget)
    deletions.start()
    at(f"open loop during {len(to_forget)} deletions in sequence")
    started = time.monotonic()
    during = scenarios.run_load_until(
        replace(steady, warm_up=0.0, seconds=_MAX_SECONDS), lambda: deletions.over
    )
    seconds = time.monotonic() - started
    problem = deletions.problem()
    overlap = scenarios.overlapping(during, deletions.swaps)
    trained = scenarios.training(during, deletions.swaps)
    rows = [
        scenarios.summary("open loop, steady", _OPEN_CLIENTS, calm, plan.seconds),
        scenarios.summary("open loop, all of the deletions", _OPEN_CLIENTS, during, seconds),
        scenarios.summary("of those: during training", _OPEN_CLIENTS, trained, 0.0),
        scenarios.summary("of those: prepare to confirmed", _OPEN_CLIENTS, overlap, 0.0),
    ]
    if problem is not None:
        # The samples until the failure are reported, with a mark that they are incomplete.
        rows[1] |= {"name": f"{rows[1]['name']}: FAILED, {problem}", "error": problem}
    figures = scenarios.swap_figures(during, deletions.swaps)
    if not scenarios.has_enough_samples(overlap):
        return rows, figures, {}
    return rows, figures, {"swap_p99": rows[3]["p99_ms"] / rows[0]["p99_ms"]}


def _forget_loop(
    plan: Plan, service: Service, users: Sequence[str], per_second: float
) -> list[dict[str, Any]]:
    """Run the load while deletions of other users arrive; the worker carries them out meanwhile."""
    forgets = Forgets(service, users, per_second)
    forgets.start()
    samples = scenarios.run_load(replace(plan, warm_up=0.0))
    requested = forgets.stop()
    name = f"open loop, {per_second:g} deletions per second"
    return [
        scenarios.summary(name, plan.clients, samples, plan.seconds),
        scenarios.summary("of those: POST /forget", 1, requested, plan.seconds),
    ]


def wait_until_ready(service: Service, replicas: int) -> None:
    """Wait until `replicas` replicas serve the live release; raises SetUpFailedError."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        page = service.get("/releases", limit=1)
        ready = [
            replica
            for replica in page["replicas"]
            if replica["lease"] == "valid" and replica["serving"] == page["live"]
        ]
        if len(ready) == replicas:
            return
        time.sleep(0.2)
    raise SetUpFailedError(f"{replicas} gateways did not get ready in {_READY_SECONDS:.0f} s")


def commit() -> str:
    """Return the short hash of the checked-out commit, or `unknown`."""
    completed = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 -- git from the PATH
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return completed.stdout.strip() or "unknown"
