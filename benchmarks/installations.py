"""A small installation on SQLite with real, untrained releases, taken through roll-outs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from app.domain.catalog import Interaction, User
from app.domain.identifiers import release_id
from app.domain.releases import Release, ReleaseStatus
from app.services import rollout
from app.services.jobs import advance, claim, start_training, succeed
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.migrate import migrate
from app.storage.unit_of_work import UnitOfWorkFactory
from models.backbones.compact import CompactConfig
from models.checkpoints import checkpoint as checkpoints
from models.data.interactions import Interactions, ItemRecord
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from app.domain.jobs import Lease
    from app.domain.releases import Replica
    from models.checkpoints.manifest import Manifest

_ITEMS: Final = [ItemRecord(id=f"i{n}", title=f"Item {n}") for n in range(100)]
_CONFIG: Final = CompactConfig(
    hidden_size=32, layers=2, heads=2, intermediate_size=64, init_std=0.5
)
USERS: Final = [f"u{number}" for number in range(20)]


def settings_of(home: Path) -> Settings:
    """Return the settings that the installation's processes share."""
    return Settings(home=home, poll_seconds=0.05, candidates=50, job_lease=60.0)


def fill(
    factory: UnitOfWorkFactory, items: Sequence[ItemRecord], users: Sequence[str], ratings: int
) -> None:
    """Store the items, and people with so many ratings each, all of them drawn alike."""
    with factory() as uow:
        uow.people.upsert_items(
            [
                (item.id, item.title, {name: list(each) for name, each in item.attributes.items()})
                for item in items
            ]
        )
        uow.people.upsert_users([User(id=user_id) for user_id in users])
        uow.people.upsert_interactions(
            [
                Interaction(
                    user_id=user_id,
                    item_id=items[(place * 7 + step * 3) % len(items)].id,
                    rating=1.0 + (place + step) % 5,
                    timestamp=1000 + step,
                )
                for place, user_id in enumerate(users)
                for step in range(ratings)
            ]
        )
        uow.state.bump("interactions")


@dataclass
class Installation:
    """People, items and releases; keeps the weights of each release to recompute answers."""

    settings: Settings
    uow: UnitOfWorkFactory
    artifacts: ArtifactStore
    items: Sequence[ItemRecord]
    config: CompactConfig
    recommenders: dict[str, Recommender] = field(default_factory=dict)

    @classmethod
    def make(cls, home: Path) -> Self:
        """Migrate a new database and fill it."""
        settings = settings_of(home)
        database = make_database(settings.sqlalchemy_url)
        migrate(database)
        load_pseudonyms(settings)
        uow = UnitOfWorkFactory(database)
        fill(uow, _ITEMS, USERS, ratings=12)
        artifacts = ArtifactStore(settings.artifacts_root, home / "cache")
        return cls(settings, uow, artifacts, _ITEMS, _CONFIG)

    def publish(self, seed: int) -> tuple[Lease, str]:
        """Publish a release with weights of its own, and begin its roll-out."""
        vocabulary = Vocabulary.from_catalog(Interactions.unrated(self.items))
        recommender = Recommender(vocabulary, self.config.seeded(seed))
        return self.record(
            recommender, lambda directory: checkpoints.save(recommender, directory, method="train")
        )

    def record(
        self, recommender: Recommender, write: Callable[[Path], Manifest]
    ) -> tuple[Lease, str]:
        """Record what `write` makes of a recommender as a candidate that rolls out."""
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
        """Make the release live, and end its job."""
        with self.uow() as uow:
            if not rollout.flip(uow, lease, name):
                raise RuntimeError("somebody else has flipped")
        with self.uow() as uow:
            succeed(uow, lease)

    def live(self) -> str | None:
        """Return the release that answers, by the database."""
        with self.uow(write=False) as uow:
            return uow.releases.alias().live

    def prepared(self, name: str) -> int:
        """Return how many replicas have prepared the release."""
        return sum(name in (each.prepared, each.serving) for each in self.live_replicas())

    def confirmed(self, name: str) -> int:
        """Return how many replicas answer from the release, and from nothing older."""
        return sum(each.serving == name for each in self.live_replicas())

    def live_replicas(self) -> list[Replica]:
        """Return the replicas that may answer, by the database."""
        with self.uow(write=False) as uow:
            return list(uow.replicas.live(self.settings.replica_margin))

    def scores(
        self,
        release: str,
        user_id: str,
        item_ids: list[str],
        history: list[Interaction] | None = None,
    ) -> list[float]:
        """Score items for a person with this release's own weights, from what is stored.

        Another `history` may stand in the place of the person's own.
        """
        with self.uow(write=False) as uow:
            items = {item.id: item for item in uow.people.items()}
            history = uow.people.history(user_id) if history is None else history
            user = uow.people.user(user_id)
        rated = [(items[one.item_id], one.rating) for one in history]
        asked = [items[each] for each in item_ids]
        found = self.recommenders[release].score(
            user.attributes if user else {},
            [HistoryEvent(item.item_index, rating, item.title) for item, rating in rated],
            [Candidate(item.item_index, item.attributes, item.title) for item in asked],
        )
        return [float(score) for score in found]
