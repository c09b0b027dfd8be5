"""Profile the request path of `GET /recommend/{user_id}`: time, round trips and functions.

    python -m benchmarks.request_profile --data data/ml-latest-small
    python -m benchmarks.request_profile --database postgresql://postgres@127.0.0.1:5432

The data set is stored in a temporary installation with an untrained compact release, which costs
as much time per answer as a trained one. The script prints CPU time beside wall time: on a busy
machine only CPU time, counts and ratios within one run can be compared.

- `model`: the scorer on the prompts of the same answers, with the history kept, as in serving
- `answer`: the whole answer in process, on the calling thread; the difference is everything else
- `over HTTP`: one gateway process and a load generator, for each number of clients
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import psutil
import psycopg

from app.cli.launch import gateway as gateway_process
from app.cli.launch import listening, service_at, wait_until_up
from app.cli.processes import Children
from app.domain.catalog import Interaction, User
from app.domain.errors import LetheError
from app.domain.recommendations import RecommendationQuery
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.migrate import migrate
from app.storage.unit_of_work import UnitOfWorkFactory
from benchmarks.installations import Installation, gateway_in_process
from benchmarks.round_trips import Counter, count_sqlite, counting_proxy
from benchmarks.serving.load import Plan
from benchmarks.serving.measurement import wait_until_ready
from benchmarks.serving.scenarios import run_load, summary
from models.backbones.compact import CompactConfig
from models.datasets.detect import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.api.state import Gateway

_HOST: Final = "127.0.0.1"
_PRINTED_FUNCTIONS: Final = 30
_MIN_RATINGS: Final = 20
_USERS_FILE: Final = "profiled-users.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the script."""

    data: Path
    #: `sqlite`, or the URL of a PostgreSQL server in which a database is made and dropped.
    database: str
    #: Directory that keeps the installation for the next run; None: a temporary one.
    home: Path | None
    users: int
    clients: tuple[int, ...]
    seconds: float
    functions: int = _PRINTED_FUNCTIONS


def main() -> None:
    """Parse the arguments, run the measurements and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_profile")
    parser.add_argument("--data", type=Path, default=Path("data/ml-latest-small"))
    parser.add_argument("--database", default="sqlite")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--functions", type=int, default=_PRINTED_FUNCTIONS)
    arguments = parser.parse_args()
    clients = tuple(int(count) for count in arguments.clients.split(",") if count)
    options = Options(**{**vars(arguments), "clients": clients})
    figures, profile = run(options)
    sys.stdout.write(f"{profile}\n{json.dumps(figures, indent=1)}\n")


def run(options: Options) -> tuple[dict[str, Any], str]:
    """Return the figures, and the functions with the most time of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="lethe-profile-") as directory,
        _database_url(options) as url,
    ):
        settings = _settings(options.home or Path(directory) / "home", url)
        served = _prepare(settings, options.data)[: options.users]
        with nullcontext() if url is None else counting_proxy(url) as proxied:
            counted = settings
            if proxied is not None:
                counted = settings.model_copy(update={"database_url": proxied[0]})
            figures, profile = _in_process(counted, served, proxied and proxied[1], options)
        figures["over HTTP"] = _over_http(settings, served, options) if options.clients else []
    return figures, profile


@contextmanager
def _database_url(options: Options) -> Iterator[str | None]:
    """Make a database in the server for the block, or use the kept one; None is for SQLite."""
    server_url, home = options.database, options.home
    if server_url == "sqlite":
        yield None
        return
    name = f"lethe_profile_{uuid.uuid4().hex if home is None else home.name}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as server:
        if home is None or not (home / _USERS_FILE).exists():
            server.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield f"{server_url}/{name}"
        finally:
            if home is None:
                server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def _settings(home: Path, url: str | None) -> Settings:
    settings = Settings(home=home, ledger_url="", api_keys=[], log_level="WARNING")
    return settings if url is None else settings.model_copy(update={"database_url": url})


def _prepare(settings: Settings, source: Path) -> list[str]:
    """Store the data and an untrained release once; return the users with enough ratings."""
    users_file = settings.home / _USERS_FILE
    if users_file.exists():
        kept: list[str] = json.loads(users_file.read_text())
        return kept
    settings.home.mkdir(parents=True, exist_ok=True)
    data, _ = read(source)
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    factory = UnitOfWorkFactory(
        database, open_ledger(settings.ledger_root, load_pseudonyms(settings))
    )
    users = [user.id for user in data.users]
    with factory() as uow:
        uow.people.upsert_items(
            [
                (item.id, item.title, {name: list(v) for name, v in item.attributes.items()})
                for item in data.items
            ]
        )
        uow.people.upsert_users([User(id=user.id, attributes={}) for user in data.users])
        columns = (data.user, data.item, data.rating, data.timestamp)
        uow.people.upsert_interactions(
            [
                Interaction(
                    user_id=users[user], item_id=data.items[item].id, rating=rating, timestamp=when
                )
                for user, item, rating, when in zip(*(c.tolist() for c in columns), strict=True)
            ],
            uow.state.bump("interactions"),
        )
        histories = uow.people.recorded_histories(users)
    artifacts = ArtifactStore(settings.artifacts_root, settings.home / "cache")
    installation = Installation(settings, factory, artifacts, data.items, CompactConfig())
    installation.flip(*installation.publish(seed=0))
    database.dispose()
    served = [user for user, history in histories.items() if len(history) >= _MIN_RATINGS]
    users_file.write_text(json.dumps(served))
    return served


def _in_process(
    settings: Settings, users: Sequence[str], round_trips: Counter | None, options: Options
) -> tuple[dict[str, Any], str]:
    database = make_database(settings.sqlalchemy_url)
    counter = round_trips or count_sqlite(database)
    with gateway_in_process(settings, database) as gateway:
        figures = _times(gateway, users)
        figures["round trips" if round_trips else "statements"] = _counts(gateway, users, counter)
        figures["threads"] = [_threads(gateway, users, threads) for threads in (1, 2, 4, 2, 1)]
        return figures, _profile(gateway, users, options.functions)


def _times(gateway: Gateway, users: Sequence[str]) -> dict[str, Any]:
    """Return median milliseconds of CPU and wall time of an answer and of its model."""
    reader, size = gateway.recommender.query_reader, gateway.settings.candidates
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Any, *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        result = work(*arguments)
        spent.setdefault(f"{name}, CPU ms", []).append(1000 * (time.thread_time() - cpu))
        spent.setdefault(f"{name}, wall ms", []).append(1000 * (time.perf_counter() - wall))
        return result

    for round_number in range(2):
        for user in users:
            query = RecommendationQuery(person=user)
            (prepared,) = reader.read([query])
            if isinstance(prepared, LetheError):
                raise prepared
            with gateway.replica.live.capture() as model:
                if round_number == 0:  # Keep the states of the history, as after a first request.
                    model.scorer.score(prepared.request())
                    continue
                timed("model", model.scorer.score, prepared.request())
            timed("answer", gateway.recommender.answer, query)
            timed("read", reader.read, [query])
            timed("recheck", reader.recheck, [prepared])
    figures: dict[str, Any] = {name: median(values) for name, values in spent.items()}
    for kind in ("CPU ms", "wall ms"):
        pairs = zip(spent[f"answer, {kind}"], spent[f"model, {kind}"], strict=True)
        figures[f"answer without model, {kind}"] = median(a - m for a, m in pairs)
    figures["candidates"] = size
    return figures


def _counts(gateway: Gateway, users: Sequence[str], counter: Counter) -> float:
    """Return the median of the counter's growth per answer; a renewed lease is an outlier."""
    grown = []
    for user in users:
        before = counter.count
        gateway.recommender.answer(RecommendationQuery(person=user))
        grown.append(counter.count - before)
    return median(grown)


def _threads(gateway: Gateway, users: Sequence[str], threads: int) -> dict[str, Any]:
    """Return CPU time and context switches per answer with this many threads that answer."""
    process = psutil.Process()
    queries = [RecommendationQuery(person=user) for user in users]
    with ThreadPoolExecutor(threads) as executor:
        switches, cpu, wall = process.num_ctx_switches(), time.process_time(), time.monotonic()
        list(executor.map(gateway.recommender.answer, queries))
        seconds = time.process_time() - cpu
    after = process.num_ctx_switches()
    return {
        "threads": threads,
        "CPU ms per answer": 1000 * seconds / len(users),
        "answers per second": len(users) / (time.monotonic() - wall),
        "voluntary switches per answer": (after.voluntary - switches.voluntary) / len(users),
    }


def _profile(gateway: Gateway, users: Sequence[str], functions: int) -> str:
    profiler = cProfile.Profile()
    profiler.enable()
    for user in users:
        gateway.recommender.answer(RecommendationQuery(person=user))
    profiler.disable()
    text = io.StringIO()
    statistics = pstats.Stats(profiler, stream=text)
    statistics.strip_dirs().sort_stats("tottime").print_stats(functions)
    return text.getvalue()


def _over_http(settings: Settings, users: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Return a row per number of clients, with the CPU time of the gateway per answer."""
    rows = []
    os.environ |= {
        "LETHE_HOME": str(settings.home),
        "LETHE_DATABASE_URL": settings.database_url or "",
        "LETHE_LOG_LEVEL": "WARNING",
    }
    with listening(_HOST, 0) as server, Children() as children:
        child = children.start(gateway_process(server, log=settings.home / "gateway.log"))
        with service_at(server, settings) as service:
            wait_until_up(service, child)
            wait_until_ready(service, 1)
            process = psutil.Process(child.process.pid)
            plan = Plan(
                host=_HOST,
                port=server.getsockname()[1],
                users=users,
                clients=1,
                seconds=options.seconds,
                warm_up=0.0,
            )
            run_load(plan)  # Read every history once.
            for clients in options.clients:
                before = sum(process.cpu_times()[:2])
                switches = process.num_ctx_switches()
                samples = run_load(replace(plan, clients=clients))
                cpu = sum(process.cpu_times()[:2]) - before
                row = summary("closed loop", clients, samples, plan.seconds)
                row["gateway CPU ms per request"] = 1000 * cpu / max(1, row["requests"])
                row["context switches per request"] = (
                    sum(process.num_ctx_switches()) - sum(switches)
                ) / max(1, row["requests"])
                rows.append({k: v for k, v in row.items() if k not in {"releases", "name"}})
    return rows


if __name__ == "__main__":
    main()
