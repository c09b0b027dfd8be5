"""Replicas of one machine share the copies of a remote store's releases, and leave none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.jobs import Lease
from app.serving.replica.release_loader import ReleaseLoader
from app.serving.scorers.torch_scorer import TorchBackend
from app.storage.artifacts import ArtifactStore
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.releases import Release
    from app.serving.replica.replica import Replica
    from app.serving.scorers.torch_scorer import TorchScorer
    from models.checkpoints.manifest import Manifest
    from tests.support.gateway_world import World


class BackendWithNeighbor(TorchBackend):
    """Lets another replica of the machine load the release, just before this one reads it."""

    neighbor: Callable[[Release], Any]

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        self.neighbor(release)
        return super().load(release, directory, manifest)


@pytest.fixture
def remote_world(world: World, tmp_path: Path) -> World:
    (tmp_path / "remote").mkdir()
    store = ArtifactStore(f"dir::file://{tmp_path / 'remote'}", tmp_path / "cache")
    world.artifacts = store
    return world


def test_eviction_by_other_replica_leaves_copy_to_loading_replica(remote_world: World) -> None:
    lease, name = remote_world.publish(1)
    assert isinstance(lease, Lease)
    with remote_world.uow(write=False) as uow:
        release = uow.releases.get(name)
    assert release is not None
    other = ReleaseLoader(remote_world.artifacts, TorchBackend(remote_world.settings))
    backend = BackendWithNeighbor(remote_world.settings)
    backend.neighbor = lambda released: other(released).free()

    loaded = ReleaseLoader(remote_world.artifacts, backend)(release)

    assert loaded.release_id == name
    assert remote_world.artifacts.copies() == []
    loaded.free()


def test_replica_deletes_copies_that_dead_processes_left(
    remote_world: World, make_replica: Callable[[], Replica]
) -> None:
    lease, name = remote_world.publish(1)
    remote_world.flip(lease, name)
    path = remote_world.artifacts.release_path(name)
    remote_world.artifacts.local_path(path)
    assert remote_world.artifacts.copies() == [path]
    make_replica().start()
    wait_until(lambda: remote_world.artifacts.copies() == [], "the copy was not deleted")
