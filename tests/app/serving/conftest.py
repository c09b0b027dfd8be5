"""Fixtures: replicas and a recommend service on one test installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.serving.recommend.service import RecommendService
from app.serving.replica.release_loader import ReleaseLoader, make_scorer_backend
from app.serving.replica.replica import Replica
from app.serving.retrieval.first_stage import FirstStage
from tests.support.gateway_world import World, world
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["world"]


@pytest.fixture
def make_replica(world: World) -> Iterator[Callable[[], Replica]]:
    """Create replicas that are not started; the fixture stops them at the end."""
    replicas: list[Replica] = []

    def make() -> Replica:
        first_stage = FirstStage(world.uow, world.pseudonyms)
        first_stage.rebuild()
        loader = ReleaseLoader(
            world.artifacts, make_scorer_backend(world.settings, world.artifacts)
        )
        replicas.append(Replica(world.settings, world.uow, loader, first_stage, world.pseudonyms))
        return replicas[-1]

    yield make
    for replica in replicas:
        replica.stop()


@pytest.fixture
def replica(world: World, make_replica: Callable[[], Replica]) -> Replica:
    """A started replica that serves a first release."""
    lease, name = world.publish(1)
    world.flip(lease, name)
    started = make_replica()
    started.start()
    wait_until(lambda: not started.reasons_not_ready(), "the replica is not ready")
    return started


@pytest.fixture
def service(world: World, replica: Replica) -> Iterator[RecommendService]:
    service = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    yield service
    service.close()
