"""The world that replicas live in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.serving.recommend.service import RecommendService
from app.serving.replica.release_loader import ReleaseLoader, make_scorer_backend
from app.serving.replica.replica import Replica
from app.serving.retrieval.first_stage import FirstStage
from tests.support.gateway_world import World, wait_until, world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["world"]


@pytest.fixture
def make_replica(world: World) -> Iterator[Callable[[], Replica]]:
    """Make replicas that are not started; those that were are stopped at the end."""
    made: list[Replica] = []

    def make() -> Replica:
        candidates = FirstStage(world.uow, world.pseudonyms)
        candidates.rebuild()
        loader = ReleaseLoader(
            world.artifacts, make_scorer_backend(world.settings, world.artifacts)
        )
        made.append(Replica(world.settings, world.uow, loader, candidates, world.pseudonyms))
        return made[-1]

    yield make
    for replica in made:
        replica.stop()


@pytest.fixture
def replica(world: World, make_replica: Callable[[], Replica]) -> Replica:
    """A started replica that answers from a first release."""
    lease, name = world.publish(1)
    world.flip(lease, name)
    started = make_replica()
    started.start()
    wait_until(lambda: not started.reasons_not_ready(), "the replica is not ready")
    return started


@pytest.fixture
def service(world: World, replica: Replica) -> Iterator[RecommendService]:
    made = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    yield made
    made.close()
