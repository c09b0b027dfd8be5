"""Provide a test installation on SQLite: users, items and untrained releases to roll out."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.domain.jobs import JobStatus, Stage
from app.domain.recommendations import RecommendationQuery
from app.domain.requests import Outcome
from app.main import create_app
from app.services import jobs, rollout
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.forget import ForgetCommand, request_forget
from app.services.secrets import load_pseudonyms, load_signer
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.unit_of_work import UnitOfWorkFactory
from benchmarks.installations import Installation, fill
from models.backbones.compact import CompactConfig
from models.data.interactions import ItemRecord
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from fastapi import FastAPI

    from app.domain.jobs import Lease
    from app.services.pseudonyms import Pseudonyms

ITEMS = 30
USERS = [f"u{number}" for number in range(8)]


def ask(user_id: str, n: int, *, exclude_seen: bool = True) -> RecommendationQuery:
    """Return a query for the best `n` items."""
    return RecommendationQuery(person=user_id, n=n, exclude_seen=exclude_seen)


@dataclass
class World(Installation):
    """An installation with data, and the actions of a worker on it."""

    pseudonyms: Pseudonyms = field(kw_only=True)

    def roll_out(self, seed: int) -> str:
        """Publish a release and roll it out to all live replicas."""
        return self.through(*self.publish(seed))

    def through(self, lease: Lease, name: str) -> str:
        """Roll out a published release: wait for all to prepare, flip, wait for all to confirm."""
        wait_until(
            lambda: not rollout.unprepared(self.live_replicas(), name),
            "the release was not prepared",
        )
        self.flip(lease, name)
        wait_until(
            lambda: not rollout.unconfirmed(self.live_replicas(), name),
            "the release was not confirmed",
        )
        return name

    def forget(self, user_id: str | None = None, *items: str, item_id: str | None = None) -> str:
        """Request a deletion, as another replica would; return the request id."""
        with self.uow() as uow:
            command = ForgetCommand.of(user_id, items, item_id)
            return request_forget(uow, self.pseudonyms, self.settings, command)[0].id

    def complete(self, audits: Mapping[str, tuple[Outcome, dict[str, Any]]] | None = None) -> None:
        """Complete the requests that are past their cancel window, without new weights.

        `audits`: outcome and figures of requests, by request id.
        """
        settings = self.settings.model_copy(update={"batch_size": max(1, len(audits or {}))})
        with self.uow() as uow:
            jobs.close_batch(uow, settings)
        with self.uow() as uow:
            claimed = jobs.claim(uow, "t", settings)
            if claimed is None:
                raise RuntimeError("no batch was closed")
            lease = claimed[1]
            for request_id, (outcome, figures) in (audits or {}).items():
                uow.request_jobs.add(lease.job_id, [request_id])
                uow.request_jobs.set_audit(lease.job_id, request_id, outcome, figures)
            jobs.advance(uow, lease, status=JobStatus.PUBLISHING)
            jobs.advance(uow, lease, status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
            finish(uow, lease, load_signer(settings), Evidence(outcome=Outcome.PASSED))

    def forget_now(self, user_id: str) -> str:
        """Complete the deletion of a user; return the request id."""
        self.settings = self.settings.model_copy(update={"cancel_window": 0.0})
        request_id = self.forget(user_id)
        self.complete()
        return request_id

    def app(self, **changes: Any) -> FastAPI:
        """Create an application on this installation."""
        return create_app(self.settings.model_copy(update=changes))


def _genre(number: int) -> str:
    return "Comedy" if number % 2 else "Drama"


_ITEMS = [
    ItemRecord(id=f"i{n}", title=f"Item {n}", attributes={"genre": (_genre(n),)})
    for n in range(ITEMS)
]


@pytest.fixture
def world(tmp_path: Path, migrated_sqlite: bytes) -> Iterator[World]:
    """A migrated SQLite installation with eight users, thirty items and no release."""
    (tmp_path / "lethe.db").write_bytes(migrated_sqlite)
    settings = Settings(
        home=tmp_path,
        poll_seconds=0.05,
        cancel_window=60.0,
        drain_timeout=5.0,
        candidates=20,
        job_lease=60.0,
        replica_ttl=60.0,
    )
    database = make_database(settings.sqlalchemy_url)
    pseudonyms = load_pseudonyms(settings)
    uow = UnitOfWorkFactory(database, open_ledger(settings.ledger_root, pseudonyms))
    fill(uow, _ITEMS, USERS, ratings=6)
    yield World(
        settings=settings,
        uow=uow,
        pseudonyms=pseudonyms,
        artifacts=ArtifactStore(settings.artifacts_root, tmp_path / "cache"),
        items=_ITEMS,
        config=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.5),
    )
    database.dispose()


@asynccontextmanager
async def serving(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, yield a client of it, and shut the application down."""
    async with app.router.lifespan_context(app), client_of(app, **options) as client:
        yield client


def client_of(app: FastAPI, *, client: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
    """Return a client that calls the application from this address."""
    transport = httpx.ASGITransport(app, client=(client, 4711))
    options.setdefault("base_url", "http://localhost")
    return httpx.AsyncClient(transport=transport, **options)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""

    async def is_true() -> bool:
        return condition()

    await until_true(is_true)


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition returns true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out: {condition.__name__}")
        await asyncio.sleep(0.02)


async def until_ready(client: httpx.AsyncClient) -> None:
    """Wait until the replica reports that it is ready."""

    async def is_ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await until_true(is_ready)
