"""Test a replica's lease, loading of releases, switches and confirmations."""

from __future__ import annotations

import gc
import os
import re
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import KeyMismatchError, ReplicaNotReadyError
from app.services.pseudonyms import Pseudonyms
from app.services.secrets import check_hash_key
from app.serving.recommend.service import RecommendService
from app.serving.replica.answer_lease import AnswerLease
from app.serving.scorers.torch_scorer import TorchScorer
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.version import VERSION
from tests.support.gateway_world import World, ask
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.releases import Release
    from app.serving.replica.live_model import LoadedModel
    from app.serving.replica.replica import Replica
    from models.recommender.base import Recommender


def weights_of(world: World, name: str) -> Path:
    return world.artifacts.local_path(world.artifacts.release_path(name)) / "weights.safetensors"


def reported(world: World, replica: Replica) -> tuple[str | None, str | None, bool]:
    """Return the replica's database row as (serving, prepared, has a problem)."""
    with world.uow(write=False) as uow:
        (row,) = [row for row in uow.replicas.all() if row.id == replica.id]
    return row.serving, row.prepared, row.problem is not None


def failed_release(world: World, replica: Replica) -> str | None:
    """Return the release that the replica's row names as impossible to load."""
    with world.uow(write=False) as uow:
        (row,) = [row for row in uow.replicas.all() if row.id == replica.id]
    return row.failed_release


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_answer_lease_ends_a_margin_before_the_ttl_after_sending() -> None:
    clock = Clock()
    lease = AnswerLease(Settings(replica_ttl=10.0, replica_margin=2.0), clock)
    assert not lease.valid
    sent_at = lease.now()
    clock.now += 5  # The database took five seconds to answer.
    lease.extend(sent_at)
    clock.now = 107.9
    assert lease.valid
    clock.now = 108.0
    with pytest.raises(ReplicaNotReadyError):
        lease.require()


def torch_recommender(loaded_model: LoadedModel) -> Recommender:
    assert isinstance(loaded_model.scorer, TorchScorer)
    return loaded_model.scorer.recommender


def test_a_replica_prepares_then_switches_then_confirms(world: World, replica: Replica) -> None:
    first = replica.live.release_id
    lease, second = world.publish(2)
    wait_until(lambda: reported(world, replica) == (first, second, False), "not prepared")
    assert replica.live.release_id == first
    world.flip(lease, second)
    wait_until(lambda: reported(world, replica) == (second, None, False), "not confirmed")
    assert replica.live.release_id == second
    with world.uow(write=False) as uow:
        (row,) = uow.replicas.all()
    assert row.pid == os.getpid()
    assert (row.precision, row.scorer, row.software) == ("float32", "torch", f"lethe {VERSION}")
    assert row.serving_since is not None


def test_a_release_is_confirmed_only_after_the_old_readers_and_weights_are_gone(
    world: World, replica: Replica
) -> None:
    first = replica.live.release_id
    with replica.live.capture() as reading:
        old = weakref.ref(torch_recommender(reading).model)
        lease, second = world.publish(2)
        wait_until(lambda: reported(world, replica)[1] == second, "not prepared")
        world.flip(lease, second)
        wait_until(lambda: replica.live.release_id == second, "not switched")
        wait_until(lambda: reported(world, replica)[1] is None, "not reported")
        assert reported(world, replica)[0] == first  # An answer still reads the first release.
        assert torch_recommender(reading) is not None
    del reading
    wait_until(lambda: reported(world, replica)[0] == second, "not confirmed")
    gc.collect()
    assert old() is None


def test_after_confirmation_no_page_of_the_old_weights_is_mapped(
    world: World, replica: Replica, service: RecommendService
) -> None:
    def mapped(name: str | None) -> bool:
        return f"{name}/weights.safetensors" in Path("/proc/self/maps").read_text()

    gc.collect()  # Earlier tests mapped weights of the same name.
    first = replica.live.release_id
    assert service.answer(ask("u1", 5)).release == first
    assert mapped(first)
    gc.disable()  # Freeing must not depend on garbage collection.
    try:
        second = world.roll_out(2)
        assert not mapped(first)
        assert mapped(second)
    finally:
        gc.enable()
    assert service.answer(ask("u1", 5)).release == second


def test_a_release_from_a_remote_store_stays_mapped_after_its_copy_is_deleted(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    gc.collect()  # Earlier tests mapped weights of the same name.
    changed = {"artifacts_url": "memory://mapped-releases"}
    world.settings = world.settings.model_copy(update=changed)
    world.artifacts = ArtifactStore(world.settings.artifacts_root, world.settings.home / "cache")
    lease, first = world.publish(1)
    world.flip(lease, first)
    replica = make_replica()
    replica.start()
    wait_until(lambda: not replica.reasons_not_ready(), "not ready")
    copies = list((world.settings.home / "cache").rglob("*.safetensors"))
    maps = Path("/proc/self/maps").read_text()
    assert copies == []
    assert re.search(rf"{first}/weights.safetensors \(deleted\)", maps)
    service = RecommendService(
        world.settings, world.uow, world.pseudonyms, replica, replica.first_stage
    )
    answer = service.answer(ask("u1", 5))
    service.close()
    expected = world.scores(first, "u1", [item.item_id for item in answer.items])
    assert [item.score for item in answer.items] == pytest.approx(expected, abs=1e-5)
    world.roll_out(2)
    assert first not in Path("/proc/self/maps").read_text()


def test_a_reader_beyond_the_drain_timeout_is_reported_and_not_interrupted(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    world.settings = world.settings.model_copy(update={"drain_timeout": 0.05})
    lease, first = world.publish(1)
    world.flip(lease, first)
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica.live.release_id == first, "not serving")
    with replica.live.capture() as reading:
        second_lease, second = world.publish(2)
        wait_until(lambda: reported(world, replica)[1] == second, "not prepared")
        world.flip(second_lease, second)
        wait_until(lambda: reported(world, replica)[2], "the problem is not reported")
        assert replica.reasons_not_ready() == []  # It answers from the second release.
        assert torch_recommender(reading) is not None
    wait_until(lambda: reported(world, replica) == (second, None, False), "not confirmed")


def test_a_damaged_release_is_reported_and_the_old_release_answers_until_the_flip(
    world: World, replica: Replica, service: RecommendService
) -> None:
    first = replica.live.release_id
    with world.uow() as uow:
        uow.releases.set_target(None)
    lease, second = publish_damaged_release(world)
    wait_until(lambda: reported(world, replica)[2], "the problem is not reported")
    assert reported(world, replica) == (first, None, True)
    assert failed_release(world, replica) == second
    assert replica.reasons_not_ready() == []
    assert service.answer(ask("u1", 5)).release == first
    world.flip(lease, second)
    wait_until(lambda: bool(replica.reasons_not_ready()), "ready without the live release")
    (reason,) = replica.reasons_not_ready()
    assert second in reason
    with pytest.raises(ReplicaNotReadyError):
        service.answer(ask("u1", 5))


def publish_damaged_release(world: World) -> tuple[object, str]:
    """Publish a release whose weights are damaged before a replica can read them."""
    publish = world.artifacts.publish

    def publish_damaged(local: Path, relative: str) -> None:
        weights = local / "weights.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        publish(local, relative)

    world.artifacts.publish = publish_damaged  # type: ignore[method-assign] # damage on the way
    return world.publish(2)


def test_a_release_with_another_digest_in_the_database_is_refused(
    world: World, replica: Replica
) -> None:
    lease, second = world.publish(2)
    wait_until(lambda: reported(world, replica)[1] == second, "not prepared")
    release = with_wrong_digest(world, second)
    with pytest.raises(ValueError, match="another digest"):
        replica._release_switch._load(release)
    world.flip(lease, second)


def with_wrong_digest(world: World, name: str) -> Release:
    with world.uow(write=False) as uow:
        release = uow.releases.get(name)
    assert release is not None
    return release.evolve(digest="0" * 64)


def test_a_fenced_replica_stops_answering_and_registers_under_a_new_id(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    lease, first = world.publish(1)
    world.flip(lease, first)
    replica = make_replica()
    replica.tick()
    old_id = replica.id
    with world.uow() as uow:
        uow.replicas.fence([old_id])
    replica._renewed_at = float("-inf")  # The renewal is due.
    replica.tick()
    assert not replica.answer_lease.valid
    assert replica.id is None
    replica.tick()
    assert replica.answer_lease.valid
    assert replica.id != old_id


def test_a_replica_that_registers_again_keeps_only_the_live_release(
    world: World, replica: Replica, service: RecommendService
) -> None:
    world.publish(2)
    wait_until(lambda: replica._release_switch.state().prepared is not None, "not prepared")
    old_id, live = replica.id, replica.live.release_id
    with world.uow() as uow:
        uow.releases.set_target(None)
        uow.replicas.fence([old_id])
    wait_until(lambda: replica.id not in (None, old_id), "not registered again")
    wait_until(lambda: reported(world, replica) == (live, None, False), "not serving")
    assert service.answer(ask("u1", 5)).release == live


def test_an_expired_replica_does_not_answer_from_the_old_release_after_a_flip(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    lease, first = world.publish(1)
    world.flip(lease, first)
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica.live.release_id == first, "not serving")
    replica._stopping.set()  # Simulates a frozen process.
    replica._thread.join()
    lease, second = world.publish(2)
    world.flip(lease, second)
    late = Clock()
    late.now = replica.answer_lease.now() + world.settings.replica_ttl
    replica.answer_lease._monotonic = late
    assert not replica.answer_lease.valid
    replica.tick()  # The process continues: it registers again and drops the old model.
    assert replica.live.release_id is None
    wait_until(lambda: (replica.tick(), replica.live.release_id == second)[1], "not reloaded")


def test_stop_deregisters_the_replica(world: World, replica: Replica) -> None:
    replica.stop()
    with world.uow(write=False) as uow:
        assert uow.replicas.all() == []
    assert not replica.answer_lease.valid
    assert replica.live.release_id is None


def test_a_replica_with_another_hash_key_gets_no_lease(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    with world.uow() as uow:
        check_hash_key(uow, world.pseudonyms)
    world.pseudonyms = Pseudonyms(b"another key, thirty-two bytes long")
    replica = make_replica()
    with pytest.raises(KeyMismatchError):
        replica.tick()
    assert not replica.answer_lease.valid


def test_a_replica_keeps_its_lease_while_all_other_connections_are_in_use(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    replica = make_replica()
    replica.tick()
    pool = world.uow.database.write.pool
    with ExitStack() as stack:
        while pool.checkedout() < pool.size() + pool._max_overflow:  # type: ignore[attr-defined]
            stack.enter_context(world.uow(write=False))
        replica._renewed_at = float("-inf")  # The renewal is due.
        replica.tick()
        assert replica._renewed_at > 0
        replica.tick()
    assert replica.answer_lease.valid


def test_a_replica_reports_how_far_it_has_followed_the_change_log(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    replica = make_replica()
    replica.tick()
    world.forget("u1")
    replica.first_stage.follow()
    replica._renewed_at = float("-inf")  # The renewal is due.
    replica.tick()
    with world.uow(write=False) as uow:
        (row,) = uow.replicas.all()
        assert row.data_version == uow.state.data_version() == replica.first_stage.version


def test_a_replica_that_lacks_entries_of_the_pruned_log_reads_all_data_again(
    world: World, make_replica: Callable[[], Replica]
) -> None:
    first_stage = make_replica().first_stage
    users = len(first_stage)
    world.forget("u1")
    with world.uow() as uow:
        version = uow.state.data_version()
        assert uow.state.prune_log(version, 1000) > 0
    first_stage.follow()
    assert (first_stage.version, len(first_stage)) == (version, users - 1)
