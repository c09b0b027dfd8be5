"""Measure what the erasure ledger costs a deletion request: `python -m benchmarks.ledger`.

`POST /forget` with one user and `POST /users/forget` with many are measured with the ledger and
with a stub that writes nothing, in turns, on SQLite and on PostgreSQL. The ratio is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import psycopg
from starlette.testclient import TestClient

from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.ledger import Ledger
from app.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from app.api.state import Gateway
    from app.domain.ledger import LedgerHead, LedgerRecord

POSTGRES_URL: Final = os.environ.get(
    "LETHE_TESTPOSTGRES_URL", "postgresql://postgres@127.0.0.1:5432"
)
CLIENT: Final = ("127.0.0.1", 50_000)
ADDRESS: Final = "http://127.0.0.1:8000"


class UnwrittenLedger(Ledger):
    """A ledger that writes nothing, and leaves the head as it is."""

    def __init__(self) -> None:
        """Take no store and no key."""

    def append(
        self, head: LedgerHead, records: Iterable[LedgerRecord], data_version: int
    ) -> LedgerHead:
        del records, data_version
        return head


def measure(settings: Settings, singles: int, bulks: int, bulk_size: int) -> dict[str, Any]:
    """Return the medians in milliseconds, with and without the ledger, and their ratios."""
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    database.dispose()
    app = create_app(settings)
    gateway: Gateway = app.state.gateway
    client = TestClient(app, base_url=ADDRESS, client=CLIENT)
    user_ids = iter(_stored_users(gateway, 2 * (singles + bulks * bulk_size)))

    def single() -> None:
        answer = client.post("/forget", json={"user_id": next(user_ids)})
        answer.raise_for_status()

    def bulk() -> None:
        batch = [next(user_ids) for _ in range(bulk_size)]
        client.post("/users/forget", json={"user_ids": batch}).raise_for_status()

    results = {
        "single": _compare(gateway, single, singles),
        f"bulk of {bulk_size}": _compare(gateway, bulk, bulks),
    }
    gateway.uow.database.dispose()
    return results | {"ledger": _size(Path(settings.ledger_root))}


def _stored_users(gateway: Gateway, count: int) -> list[str]:
    user_ids = [f"user-{number}" for number in range(count)]
    with gateway.uow() as uow:
        uow.people.ensure_users(user_ids)
    return user_ids


def _compare(gateway: Gateway, call: Callable[[], None], rounds: int) -> dict[str, float]:
    """Call with the ledger and without it in turns."""
    ledgers = {"with_ms": gateway.uow.ledger, "without_ms": UnwrittenLedger()}
    seconds: dict[str, list[float]] = {name: [] for name in ledgers}
    for position in range(rounds):
        for name in sorted(ledgers, reverse=position % 2 == 1):
            gateway.uow.ledger = ledgers[name]
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    gateway.uow.ledger = ledgers["with_ms"]
    medians = {name: 1000 * median(values) for name, values in seconds.items()}
    return medians | {"ratio": medians["with_ms"] / medians["without_ms"]}


def _size(root: Path) -> dict[str, int]:
    files = [path for path in root.rglob("*.json") if path.is_file()]
    return {"objects": len(files), "bytes": sum(path.stat().st_size for path in files)}


@contextmanager
def postgresql(server_url: str) -> Iterator[str]:
    """Create a database, and drop it at the end."""
    name = f"lethe_ledger_{uuid.uuid4().hex}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield f"{server_url}/{name}"
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--singles", type=int, default=100)
    parser.add_argument("--bulks", type=int, default=3)
    parser.add_argument("--bulk-size", type=int, default=1000)
    parser.add_argument("--postgres", default=POSTGRES_URL, help="URL of a server, no database")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure_logging("ERROR")
    sizes = (options.singles, options.bulks, options.bulk_size)
    with tempfile.TemporaryDirectory() as directory, postgresql(options.postgres) as url:
        results = {
            kind: measure(_settings(Path(directory) / kind, database_url), *sizes)
            for kind, database_url in (("sqlite", ""), ("postgresql", url))
        }
    text = json.dumps(results, indent=1)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _settings(home: Path, database_url: str) -> Settings:
    return Settings(home=home, database_url=database_url, ledger_url="", api_keys=())


if __name__ == "__main__":
    main()
