"""A gateway's world on SQLite: people, items, and real (untrained) releases to roll out."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from app.domain.catalogue import Interaction, User
from app.domain.recommendations import Question
from app.main import create_app
from app.services import rollout
from app.services.policies import ForgetPolicy, JobPolicy
from app.services.request_forget import ForgetCommand, request_forget
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.unit_of_work import SqlUnitOfWorkFactory
from benchmarks.installations import Installation
from models import checkpoints
from models.backbones import CompactConfig
from models.datasets.interactions import Interactions, ItemRecord
from models.recommender import Recommender
from models.requests import Candidate, HistoryEvent
from models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from app.domain.catalogue import Item
    from app.domain.jobs import Lease
    from app.services.pseudonyms import Pseudonyms

ITEMS = 30
USERS = [f"u{number}" for number in range(8)]
_POLICY = JobPolicy(lease_seconds=60.0, attempts=3, request_failures=2)
_TIMEOUT_SECONDS = 30.0


def ask(user_id: str, n: int, *, exclude_seen: bool = True) -> Question:
    """Return a question for the best `n` items."""
    return Question(person=user_id, n=n, exclude_seen=exclude_seen)


def wait_until(condition: Callable[[], bool], why: str) -> None:
    """Wait for another thread; fail with `why` when it does not come about."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out: {why}")
        time.sleep(0.01)


@dataclass
class World(Installation):
    """An installation with data in it, and what a worker would do to it."""

    pseudonyms: Pseudonyms = field(kw_only=True)

    def publish(self, seed: int) -> tuple[Lease, str]:
        """Publish a compact release with weights of its own."""
        table = Interactions(
            users=(),
            items=tuple(
                ItemRecord(id=f"i{n}", title="", attributes={"genre": (_genre(n),)})
                for n in range(ITEMS)
            ),
            user=np.empty(0, np.int32),
            item=np.empty(0, np.int32),
            rating=np.empty(0, np.float32),
            timestamp=np.empty(0, np.int64),
        )
        config = CompactConfig(
            hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.5, seed=seed
        )
        recommender = Recommender(Vocabulary.from_catalogue(table), config)
        return self.record(
            recommender, lambda directory: checkpoints.save(recommender, directory, method="train")
        )

    def roll_out(self, seed: int) -> str:
        """Publish, wait until all live replicas have prepared, flip, wait until all confirm."""
        return self.through(*self.publish(seed))

    def through(self, lease: Lease, name: str) -> str:
        """Take what is published through to the end of its roll-out."""
        wait_until(lambda: not rollout.unprepared(self.live_replicas(), name), "nobody prepared")
        self.flip(lease, name)
        wait_until(lambda: not rollout.unconfirmed(self.live_replicas(), name), "unconfirmed")
        return name

    def live_replicas(self) -> list[Any]:
        """Return the replicas that may answer, by the database."""
        with self.uow(write=False) as uow:
            return uow.replicas.live(self.settings.replica_margin)

    def forget(self, user_id: str | None = None, *items: str, item_id: str | None = None) -> str:
        """Ask to forget, as another replica would."""
        with self.uow() as uow:
            command = ForgetCommand.of(user_id, items, item_id)
            policy = ForgetPolicy.of(self.settings)
            return request_forget(uow, self.pseudonyms, policy, command)[0].id

    def scores(
        self,
        release: str,
        user_id: str,
        item_ids: list[str],
        history: list[Interaction] | None = None,
    ) -> list[float]:
        """Score the items for the user with this release's own weights, from what is stored."""
        with self.uow(write=False) as uow:
            items = {item.id: item for item in uow.people.items()}
            history = uow.people.history(user_id) if history is None else history
            user = uow.people.user(user_id)
        found = self.recommenders[release].score(
            user.attributes if user else {},
            [_event(items[one.item_id], one.rating) for one in history],
            [
                Candidate(items[each].slot, items[each].attributes, items[each].title)
                for each in item_ids
            ],
        )
        return [float(score) for score in found]

    def app(self, **changes: Any) -> FastAPI:
        """Make an application on this installation."""
        return create_app(self.settings.model_copy(update=changes))


def _event(item: Item, rating: float) -> HistoryEvent:
    return HistoryEvent(item.slot, rating, item.title)


def _genre(number: int) -> str:
    return "Comedy" if number % 2 else "Drama"


def _fill(uow_factory: SqlUnitOfWorkFactory) -> None:
    with uow_factory() as uow:
        uow.people.upsert_items(
            [(f"i{n}", f"Item {n}", {"genre": [_genre(n)]}) for n in range(ITEMS)]
        )
        uow.people.upsert_users([User(id=user_id) for user_id in USERS])
        uow.people.upsert_interactions(
            [
                Interaction(
                    user_id=user_id,
                    item_id=f"i{(place * 7 + step * 3) % ITEMS}",
                    rating=1.0 + (place + step) % 5,
                    timestamp=1000 + step,
                )
                for place, user_id in enumerate(USERS)
                for step in range(6)
            ]
        )
        uow.state.bump("interactions")


@pytest.fixture
def world(tmp_path: Path, migrated_sqlite: bytes) -> Iterator[World]:
    """A migrated SQLite installation with eight people, thirty items, and no release."""
    (tmp_path / "lethe.db").write_bytes(migrated_sqlite)
    settings = Settings(
        home=tmp_path, poll_seconds=0.05, cancel_window=60.0, drain_timeout=5.0, candidates=20
    )
    database = make_database(settings.sqlalchemy_url)
    uow = SqlUnitOfWorkFactory(database)
    _fill(uow)
    yield World(
        settings=settings,
        uow=uow,
        pseudonyms=load_pseudonyms(settings),
        artifacts=ArtifactStore(settings.artifacts_root, tmp_path / "cache"),
    )
    database.dispose()


@asynccontextmanager
async def serving(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application's startup and shutdown around a client of it."""
    async with app.router.lifespan_context(app), client_of(app, **options) as client:
        yield client


def client_of(app: FastAPI, *, client: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
    """Return a client that calls the application from this address."""
    transport = httpx.ASGITransport(app, client=(client, 4711))
    options.setdefault("base_url", "http://localhost")
    return httpx.AsyncClient(transport=transport, **options)


async def until_ready(client: httpx.AsyncClient) -> None:
    """Wait until the replica says that it is ready."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while (await client.get("/readyz")).status_code != 200:
        if time.monotonic() > deadline:
            pytest.fail("the replica does not become ready")
