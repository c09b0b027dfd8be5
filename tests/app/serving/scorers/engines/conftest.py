"""Fixtures: an installation with adapter releases, and a serving engine that scores them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from app.serving.recommend.service import RecommendService
from models.backbones.lora import AdapterConfig
from models.checkpoints.checkpoint import save
from models.prompts.templates import SHARED_PREFIX
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from models.recommender.pretrained import HuggingFaceConfig
from models.recommender.trainable import own_state
from tests.app.serving.conftest import make_replica
from tests.support import tiny_models as tiny
from tests.support.gateway_world import World, ask, world
from tests.support.processes import wait_until
from tests.support.protocol_server import KEY, ProtocolServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.domain.jobs import Lease
    from app.serving.replica.replica import Replica

__all__ = ["make_replica", "world"]

ADAPTER = AdapterConfig(rank=4, alpha=8, dropout=0.0, targets=("query", "value", "mlp"))


class TextWorld:
    """A test installation and its engine; releases have random adapters on one backbone."""

    def __init__(self, world: World, engine: ProtocolServer, base: Path) -> None:
        self.world = world
        self.engine = engine
        self._base = base

    def publish(self, seed: int) -> tuple[Lease, str]:
        """Publish a release with a random adapter."""
        backbone = parse_backbone(f"hf:{self._base}")
        assert isinstance(backbone, HuggingFaceConfig)
        config = replace(backbone, wording=SHARED_PREFIX, adapter=ADAPTER)
        recommender = build(Vocabulary.from_catalog(tiny.DATA), config)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for name, tensor in own_state(recommender).items():
                if "lora_B" in name:  # A new adapter has zeros here and would change nothing.
                    tensor.normal_(std=0.3)
        return self.world.record(
            recommender, lambda directory: save(recommender, directory, method="train")
        )

    def roll_out(self, seed: int) -> str:
        """Publish a release and wait until all live replicas confirm it."""
        return self.world.through(*self.publish(seed))

    def first(self, seed: int = 1) -> str:
        """Publish a release and make it live before any replica starts."""
        lease, name = self.publish(seed)
        self.world.flip(lease, name)
        return name

    def exported(self) -> list[str]:
        """Return the release ids of the adapters on disk."""
        return self.world.artifacts.adapters()

    def check(self, service: RecommendService, release: str, user: str = "u1") -> None:
        """Check that an answer has the scores that torch computes for this release."""
        answer = service.answer(ask(user, 10))
        assert answer.release == release
        assert len(answer.items) == 10
        expected = self.world.scores(release, user, [item.item_id for item in answer.items])
        assert [item.score for item in answer.items] == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer."""
    directory = tmp_path_factory.mktemp("backbone")
    tiny.save("llama", directory)
    return directory


@pytest.fixture
def engine(base: Path) -> Iterator[ProtocolServer]:
    engine = ProtocolServer(base)
    engine.start()
    yield engine
    if engine.faults.hang is not None:
        engine.faults.hang.set()
    engine.stop()


@pytest.fixture(params=["vllm", "sglang"])
def texts(
    request: pytest.FixtureRequest, world: World, engine: ProtocolServer, base: Path
) -> TextWorld:
    """A test installation with an engine of each kind."""
    changes = {
        "scorer": request.param,
        "engine_url": engine.url,
        "engine_key": KEY,
        "engine_timeout": 5.0,
        # A replica whose engine keeps an adapter stops only when its lease has ended.
        "replica_ttl": 10.0,
    }
    unchanged = world.settings.model_dump(exclude_unset=True)
    world.settings = type(world.settings)(**{**unchanged, **changes})
    return TextWorld(world, engine, base)


@pytest.fixture
def make_service(texts: TextWorld) -> Iterator[Callable[[Replica], RecommendService]]:
    """Create services of started replicas; the fixture closes them at the end."""
    services: list[RecommendService] = []

    def make(replica: Replica) -> RecommendService:
        world = texts.world
        services.append(
            RecommendService(
                world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
            )
        )
        return services[-1]

    yield make
    for service in services:
        service.close()


@pytest.fixture
def start(make_replica: Callable[[], Replica]) -> Callable[[], Replica]:
    """Start a replica and wait until the replica is ready."""

    def begin() -> Replica:
        replica = make_replica()
        replica.start()
        wait_until(lambda: not replica.reasons_not_ready(), "the replica is not ready")
        return replica

    return begin
