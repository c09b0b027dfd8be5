"""A world whose releases are a public backbone and an adapter each, and an engine to score them."""

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
from tests.support.gateway_world import World, ask, wait_until, world
from tests.support.protocol_server import KEY, ProtocolServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.domain.jobs import Lease
    from app.serving.replica.replica import Replica

__all__ = ["make_replica", "world"]

SHAPE = AdapterConfig(rank=4, alpha=8, dropout=0.0, targets=("query", "value", "mlp"))


class TextWorld:
    """A world and its engine; releases are made as training makes them, with random adapters."""

    def __init__(self, world: World, engine: ProtocolServer, base: Path) -> None:
        self.world = world
        self.engine = engine
        self._base = base

    def publish(self, seed: int) -> tuple[Lease, str]:
        """Publish a release with an adapter of its own."""
        named = parse_backbone(f"hf:{self._base}")
        assert isinstance(named, HuggingFaceConfig)
        config = replace(named, wording=SHARED_PREFIX, adapter=SHAPE)
        recommender = build(Vocabulary.from_catalog(tiny.DATA), config)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for name, tensor in own_state(recommender).items():
                if "lora_B" in name:  # An adapter begins with zeros, and would change nothing.
                    tensor.normal_(std=0.3)
        return self.world.record(
            recommender, lambda directory: save(recommender, directory, method="train")
        )

    def roll_out(self, seed: int) -> str:
        """Publish, and wait until all live replicas answer from it and say so."""
        return self.world.through(*self.publish(seed))

    def first(self, seed: int = 1) -> str:
        """Publish a release and make it live before any replica is up."""
        lease, name = self.publish(seed)
        self.world.flip(lease, name)
        return name

    def exported(self) -> list[str]:
        """Return whose adapters lie written for the engine."""
        return self.world.artifacts.adapters()

    def check(self, service: RecommendService, release: str, user: str = "u1") -> None:
        """Every score must be what torch says that this release gives."""
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
    made = ProtocolServer(base)
    made.start()
    yield made
    if made.faults.hang is not None:
        made.faults.hang.set()
    made.stop()


@pytest.fixture(params=["vllm", "sglang"])
def texts(
    request: pytest.FixtureRequest, world: World, engine: ProtocolServer, base: Path
) -> TextWorld:
    """A world with an engine of either kind."""
    changes = {
        "scorer": request.param,
        "engine_url": engine.url,
        "engine_key": KEY,
        "engine_timeout": 5.0,
        "replica_ttl": 5.0,
        "replica_margin": 0.5,
    }
    kept = world.settings.model_dump(exclude_unset=True)
    world.settings = type(world.settings)(**{**kept, **changes})
    return TextWorld(world, engine, base)


@pytest.fixture
def make_service(texts: TextWorld) -> Iterator[Callable[[Replica], RecommendService]]:
    """Make services of started replicas."""
    made: list[RecommendService] = []

    def make(replica: Replica) -> RecommendService:
        world = texts.world
        made.append(
            RecommendService(
                world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
            )
        )
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def start(make_replica: Callable[[], Replica]) -> Callable[[], Replica]:
    """Start a replica and wait until it answers."""

    def begin() -> Replica:
        started = make_replica()
        started.start()
        wait_until(lambda: not started.reasons_not_ready(), "the replica is not ready")
        return started

    return begin
