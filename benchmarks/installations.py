"""Installations and gateways inside one process, for `swaps` and for `serving`.

The tests' gateway world (`tests/support/gateway_world.py`) extends `Installation` as well.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from app.domain.catalog import Interaction, User
from app.domain.identifiers import release_id
from app.domain.releases import Release, ReleaseStatus
from app.gateway import freeze_startup_objects
from app.main import make_gateway
from app.services import rollout
from app.services.jobs import advance, claim, start_training, succeed
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.migrate import migrate
from app.storage.unit_of_work import UnitOfWorkFactory
from models.backbones.compact import CompactConfig
from models.checkpoints import checkpoint as checkpoints
from models.data.interactions import Interactions, ItemRecord
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from app.api.state import Gateway
    from app.domain.jobs import Lease
    from app.domain.releases import Replica
    from app.storage.engine import Database
    from models.checkpoints.manifest import Manifest

_ITEMS: Final = [ItemRecord(id=f"i{n}", title=f"Item {n}") for n in range(100)]
_CONFIG: Final = CompactConfig(
    hidden_size=32, layers=2, heads=2, intermediate_size=64, init_std=0.5
)
USERS: Final = [f"u{number}" for number in range(20)]
_READY_TIMEOUT: Final = 120.0


def settings_of(home: Path) -> Settings:
    """Return the settings that all processes of the installation share."""
    return Settings(home=home, ledger_url="", poll_seconds=0.05, candidates=50, job_lease=60.0)


def fill(
    factory: UnitOfWorkFactory, items: Sequence[ItemRecord], users: Sequence[str], ratings: int
) -> None:
    """Store items, and users with `ratings` deterministic ratings each."""
    with factory() as uow:
        uow.people.upsert_items(
            [
                (
                    item.id,
                    item.title,
                    {name: list(values) for name, values in item.attributes.items()},
                )
                for item in items
            ]
        )
        uow.people.upsert_users([User(id=user_id) for user_id in users])
        uow.people.upsert_interactions(
            [
                Interaction(
                    user_id=user_id,
                    item_id=items[(position * 7 + step * 3) % len(items)].id,
                    rating=1.0 + (position + step) % 5,
                    timestamp=1000 + step,
                )
                for position, user_id in enumerate(users)
                for step in range(ratings)
            ],
            uow.state.bump("interactions"),
        )


@dataclass
class Installation:
    """SQLite installation with untrained releases; keeps their weights to recompute scores."""

    settings: Settings
    uow: UnitOfWorkFactory
    artifacts: ArtifactStore
    items: Sequence[ItemRecord]
    config: CompactConfig
    recommenders: dict[str, Recommender] = field(default_factory=dict)

    @classmethod
    def make(cls, home: Path) -> Self:
        """Create, migrate and fill a new database."""
        settings = settings_of(home)
        database = make_database(settings.sqlalchemy_url)
        migrate(database)
        uow = UnitOfWorkFactory(
            database, open_ledger(settings.ledger_root, load_pseudonyms(settings))
        )
        fill(uow, _ITEMS, USERS, ratings=12)
        artifacts = ArtifactStore(settings.artifacts_root, home / "cache")
        return cls(settings, uow, artifacts, _ITEMS, _CONFIG)

    def publish(self, seed: int) -> tuple[Lease, str]:
        """Publish a release with weights drawn from `seed`, and start its rollout."""
        vocabulary = Vocabulary.from_catalog(Interactions.unrated(self.items))
        recommender = Recommender(vocabulary, self.config.seeded(seed))
        return self.record(
            recommender, lambda directory: checkpoints.save(recommender, directory, method="train")
        )

    def record(
        self, recommender: Recommender, write: Callable[[Path], Manifest]
    ) -> tuple[Lease, str]:
        """Write a recommender with `write`, publish it as a release, and start its rollout."""
        with self.uow() as uow:
            start_training(uow)
        with self.uow() as uow:
            claimed = claim(uow, "benchmark", self.settings)
        if claimed is None:
            raise RuntimeError("another job is open")
        lease = claimed[1]
        staging = self.artifacts.staging(lease.job_id, lease.epoch) / "weights"
        manifest = write(staging)
        name = release_id(manifest.digest)
        path = self.artifacts.release_path(name)
        self.artifacts.publish(staging, path)
        self.recommenders[name] = recommender
        with self.uow() as uow:
            advance(uow, lease, snapshot_version=uow.state.data_version())
            release = Release(
                id=name,
                digest=manifest.digest,
                parent=uow.releases.alias().live,
                job_id=lease.job_id,
                status=ReleaseStatus.CANDIDATE,
                method="train",
                outcome=None,
                path=path,
                created_at=uow.state.now(),
            )
            rollout.publish(uow, lease, release)
            rollout.start_rollout(uow, lease, name)
        return lease, name

    def flip(self, lease: Lease, name: str) -> None:
        """Make the release live and complete its job."""
        with self.uow() as uow:
            if not rollout.flip(uow, lease, name):
                raise RuntimeError("another process made the release live first")
        with self.uow() as uow:
            succeed(uow, lease)

    def live(self) -> str | None:
        """Return the live release according to the database."""
        with self.uow(write=False) as uow:
            return uow.releases.alias().live

    def prepared(self, name: str) -> int:
        """Return the number of replicas that have prepared the release."""
        return sum(name in (r.prepared, r.serving) for r in self.live_replicas())

    def confirmed(self, name: str) -> int:
        """Return the number of replicas that serve only the release."""
        return sum(replica.serving == name for replica in self.live_replicas())

    def live_replicas(self) -> list[Replica]:
        """Return the replicas with a valid lease according to the database."""
        with self.uow(write=False) as uow:
            return list(uow.replicas.live(self.settings.replica_margin))

    def scores(
        self,
        release: str,
        user_id: str,
        item_ids: list[str],
        history: list[Interaction] | None = None,
    ) -> list[float]:
        """Score items for a user with the release's weights, from the stored data.

        `history` replaces the user's stored history.
        """
        with self.uow(write=False) as uow:
            items = {item.id: item for item in uow.people.items()}
            history = uow.people.history(user_id) if history is None else history
            user = uow.people.user(user_id)
        rated = [(items[rating.item_id], rating.rating) for rating in history]
        candidates = [items[item_id] for item_id in item_ids]
        scores = self.recommenders[release].score(
            user.attributes if user else {},
            [HistoryEvent(item.item_index, rating, item.title) for item, rating in rated],
            [Candidate(item.item_index, item.attributes, item.title) for item in candidates],
        )
        return [float(score) for score in scores]


@contextmanager
def gateway_in_process(settings: Settings, database: Database | None = None) -> Iterator[Gateway]:
    """Run a gateway without HTTP in the block; raises TimeoutError if it does not get ready.

    `database` is closed at the end of the block.
    """
    database = database or make_database(settings.sqlalchemy_url)
    gateway = make_gateway(settings, database)
    freeze_startup_objects()
    gateway.replica.start()
    deadline = time.monotonic() + _READY_TIMEOUT
    try:
        while gateway.replica.reasons_not_ready():
            if time.monotonic() > deadline:
                raise TimeoutError("; ".join(gateway.replica.reasons_not_ready()))
            time.sleep(0.05)
        yield gateway
    finally:
        gateway.recommender.close()
        gateway.replica.stop()
        database.dispose()
