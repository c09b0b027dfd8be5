"""Measure a list of deletions against single calls: `python -m benchmarks.bulk_lists`.

A list in CSV with three bad rows is sent to `POST /forget/bulk`, on SQLite and on PostgreSQL. Two
threads beside it store ratings and check suppressions, before and during the call, so that the
waiting of other writers and readers shows. Single calls of `POST /forget` are the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from starlette.testclient import TestClient

from app.domain.catalog import Interaction
from app.logs import configure_logging
from app.main import create_app
from app.services import forget_lists
from app.services.interactions import add_interactions
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate
from benchmarks.ledger import ADDRESS, CLIENT, POSTGRES_URL, postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from app.api.state import Gateway
    from app.storage.engine import Database

#: A control character, a text that is too long, and a user without data.
_BAD_ROWS: Final = ("bad\x01id", "x" * 201, "user without data")
_PAUSE_SECONDS: Final = 0.02
_CSV: Final = {"Content-Type": "text/csv"}


@dataclass
class Statements:
    """Statements, and seconds of transactions that write, of the recording threads.

    One call of the driver with many rows counts as one statement.
    """

    count: int = 0
    held: list[float] = field(default_factory=list)

    is_counting: bool = False

    @contextmanager
    def listening(self, database: Database, beside: Container[int] = ()) -> Iterator[None]:
        """Listen to all threads but those `beside`. Statements count while `is_counting`."""
        began: dict[int, float] = {}

        def on_statement(*_: Any) -> None:
            if self.is_counting and threading.get_ident() not in beside:
                self.count += 1

        def on_begin(connection: Any) -> None:
            began[id(connection)] = time.perf_counter()

        def on_commit(connection: Any) -> None:
            seconds = time.perf_counter() - began.pop(id(connection), 0.0)
            if self.is_counting and threading.get_ident() not in beside:
                self.held.append(seconds)

        listeners: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", on_statement),
            ("begin", on_begin),
            ("commit", on_commit),
        ]
        for name, listener in listeners:
            event.listen(database.write, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners:
                event.remove(database.write, name, listener)


@dataclass
class Beside:
    """Threads that write ratings and check suppressions, and the seconds of their calls."""

    gateway: Gateway
    writes: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    @contextmanager
    def running(self) -> Iterator[None]:
        stopped = threading.Event()

        def repeat(call: Callable[[], object], seconds: list[float]) -> None:
            self.threads.add(threading.get_ident())
            while not stopped.wait(_PAUSE_SECONDS):
                started = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started)

        calls = [(self._write, self.writes), (self._read, self.reads)]
        threads = [threading.Thread(target=repeat, args=call) for call in calls]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    def take(self) -> dict[str, Any]:
        """Return the figures of the calls so far, in milliseconds, and forget the calls."""
        figures = {"writes": _figures(self.writes), "reads": _figures(self.reads)}
        self.writes.clear()
        self.reads.clear()
        return figures

    def _write(self) -> None:
        row = Interaction(user_id="writer", item_id="i", rating=4.0, timestamp=int(time.time()))
        with self.gateway.uow() as uow:
            add_interactions(uow, self.gateway.pseudonyms, [row])

    def _read(self) -> None:
        self.gateway.uow.standing([self.gateway.pseudonyms.user("writer")])


def measure(settings: Settings, rows: int, singles: int) -> dict[str, Any]:
    """Return the figures of one database."""
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    database.dispose()
    app = create_app(settings)
    gateway: Gateway = app.state.gateway
    # No lifespan: a replica of its own would add statements.
    client = TestClient(app, base_url=ADDRESS, client=CLIENT)
    user_ids = [f"user-{number}" for number in range(rows + singles)]
    with gateway.uow() as uow:
        uow.people.upsert_items([("i", "Item", {})])
        uow.people.ensure_users([*user_ids, "writer"])
    results = {"single_calls": _singles(gateway, client, user_ids[rows:])}
    results["list"] = _list(gateway, client, user_ids[:rows])
    gateway.uow.database.dispose()
    return results


def _singles(gateway: Gateway, client: TestClient, user_ids: list[str]) -> dict[str, Any]:
    statements = Statements(is_counting=True)
    started = time.perf_counter()
    with statements.listening(gateway.uow.database):
        for user_id in user_ids:
            client.post("/forget", json={"user_id": user_id}).raise_for_status()
    seconds = time.perf_counter() - started
    return {
        "users": len(user_ids),
        "statements_per_user": statements.count / len(user_ids),
        "milliseconds_per_user": 1000 * seconds / len(user_ids),
    }


def _list(gateway: Gateway, client: TestClient, user_ids: list[str]) -> dict[str, Any]:
    rows = list(user_ids[: -len(_BAD_ROWS)])
    for position, bad_row in enumerate(_BAD_ROWS, start=1):
        rows.insert(position * len(rows) // 4, bad_row)
    content = "user_id\n" + "".join(f"{row}\n" for row in rows)
    beside, statements = Beside(gateway), Statements()
    with statements.listening(gateway.uow.database, beside.threads), beside.running():
        time.sleep(3.0)
        before = beside.take()
        statements.is_counting = True
        started = time.perf_counter()
        answer = client.post("/forget/bulk", content=content, headers=_CSV)
        seconds = time.perf_counter() - started
        statements.is_counting = False
        during = beside.take()
    answer.raise_for_status()
    path = answer.headers["location"]
    started = time.perf_counter()
    table = client.get(f"{path}/results", headers={"Accept": "text/csv"}).text
    download_seconds = time.perf_counter() - started
    chunks = -(-len(rows) // forget_lists.CHUNK)
    return {
        "rows": len(rows),
        "bytes": len(content),
        "counts": answer.json()["counts"],
        "rows_of_results": table.count("\n") - 1,
        "chunk": forget_lists.CHUNK,
        "seconds": seconds,
        "milliseconds_per_row": 1000 * seconds / len(rows),
        "statements": statements.count,
        "statements_per_chunk": statements.count / chunks,
        "statements_per_row": statements.count / len(rows),
        "transaction_ms": _figures(statements.held),
        "results_seconds": download_seconds,
        "beside_ms": {"before": before, "during": during},
    }


def _figures(seconds: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in milliseconds."""
    if len(seconds) < 2:  # noqa: PLR2004 - quantiles need two values
        return {}
    return {
        "calls": len(seconds),
        "median": 1000 * median(seconds),
        "p99": 1000 * quantiles(seconds, n=100)[98],
        "max": 1000 * max(seconds),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--singles", type=int, default=300)
    parser.add_argument("--postgres", default=POSTGRES_URL, help="URL of a server, no database")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure_logging("ERROR")
    results: dict[str, Any] = {"load_average": [os.getloadavg()]}
    with tempfile.TemporaryDirectory() as directory, postgresql(options.postgres) as url:
        for kind, database_url in (("sqlite", ""), ("postgresql", url)):
            home = Path(directory) / kind
            settings = Settings(home=home, ledger_url="", database_url=database_url, api_keys=())
            results[kind] = measure(settings, options.rows, options.singles)
            results["load_average"].append(os.getloadavg())
    text = json.dumps(results, indent=1)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
