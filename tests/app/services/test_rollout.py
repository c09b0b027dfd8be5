"""Publication, the flip, leases of replicas, and heartbeats of workers."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.errors import KeyMismatchError, ReleaseExistsError, StaleDataError
from app.domain.identifiers import release_id
from app.domain.jobs import JobStatus, Lease
from app.domain.releases import Alias, Release, ReleaseStatus, Replica
from app.domain.requests import Outcome
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.jobs import advance, claim, fail, start_training, succeed
from app.services.pagination import list_releases
from app.services.pseudonyms import Pseudonyms
from app.services.replicas import (
    ReplicaState,
    deregister_replica,
    register_replica,
    renew_replica,
)
from app.services.rollout import (
    all_failed,
    fence,
    flip,
    publish,
    start_rollout,
    unconfirmed,
    unprepared,
)
from app.services.secrets import check_hash_key
from app.services.signatures import Signer
from app.settings import Settings
from app.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(job_lease=30.0, job_attempts=2, request_failures=2)
REPLICA_TTL = 30.0


def train(factory: UnitOfWorkFactory) -> Lease:
    with factory() as uow:
        start_training(uow)
    with factory() as uow:
        claimed = claim(uow, "w", SETTINGS)
    if claimed is None:
        raise RuntimeError("no job can be claimed")
    with factory() as uow:
        advance(uow, claimed[1], snapshot_version=uow.state.data_version())
    return claimed[1]


def release_of(factory: UnitOfWorkFactory, lease: Lease, digest: str) -> Release:
    with factory(write=False) as uow:
        return Release(
            id=release_id(digest * 64),
            digest=digest * 64,
            parent=uow.releases.alias().live,
            job_id=lease.job_id,
            status=ReleaseStatus.CANDIDATE,
            method="train",
            outcome=Outcome.EXACT,
            path=f"releases/{release_id(digest * 64)}",
            created_at=uow.state.now(),
        )


def go_live(factory: UnitOfWorkFactory, digest: str) -> str:
    lease = train(factory)
    release = release_of(factory, lease, digest)
    with factory() as uow:
        publish(uow, lease, release)
    with factory() as uow:
        start_rollout(uow, lease, release.id)
    with factory() as uow:
        assert uow.releases.alias().target == release.id
        assert flip(uow, lease, release.id)
    with factory() as uow:
        assert flip(uow, lease, release.id)  # A repeated flip changes nothing.
        succeed(uow, lease)
    return release.id


def test_new_release_retires_its_predecessor(catalog: UnitOfWorkFactory) -> None:
    first, second = go_live(catalog, "a"), go_live(catalog, "b")
    with catalog() as uow:
        assert uow.releases.alias() == Alias(live=second, target=None, generation=2)
        statuses = {r.id: r.status for r in uow.releases.unshredded()}
        assert statuses == {first: ReleaseStatus.RETIRED, second: ReleaseStatus.LIVE}
        uow.releases.update(first, status=ReleaseStatus.SHREDDED, shredded_at=uow.state.now())
        assert [r.id for r in uow.releases.unshredded()] == [second]
        page = list_releases(uow, limit=1)
        assert [r.id for r in page.items] == [second]
        assert [r.id for r in list_releases(uow, cursor=page.next_cursor).items] == [first]


def test_flip_with_outdated_alias_fails(catalog: UnitOfWorkFactory) -> None:
    live = go_live(catalog, "a")
    with catalog() as uow:
        assert not uow.releases.flip(Alias(live=live, target=None, generation=0), live)
        assert not uow.releases.flip(Alias(live=None, target=None, generation=1), live)
        assert uow.releases.flip(Alias(live=live, target=None, generation=1), live)


def test_weights_that_served_cannot_be_published_again(catalog: UnitOfWorkFactory) -> None:
    go_live(catalog, "a")
    lease = train(catalog)
    with pytest.raises(ReleaseExistsError), catalog() as uow:
        publish(uow, lease, release_of(catalog, lease, "a"))


def test_candidate_that_never_served_can_be_published_again(catalog: UnitOfWorkFactory) -> None:
    lease = train(catalog)
    release = release_of(catalog, lease, "a")
    with catalog() as uow:
        publish(uow, lease, release)
    with catalog() as uow:
        start_rollout(uow, lease, release.id)
        fail(uow, lease, "no", SETTINGS)
        assert uow.releases.alias().target is None
        uow.releases.update(release.id, status=ReleaseStatus.SHREDDED)
    again = train(catalog)
    with catalog() as uow:
        publish(uow, again, release_of(catalog, again, "a"))
        stored = uow.releases.get(release.id)
        assert stored is not None
        assert (stored.status, stored.job_id) == (ReleaseStatus.CANDIDATE, again.job_id)


def test_job_with_snapshot_before_a_completion_cannot_publish(
    catalog: UnitOfWorkFactory,
    forget: Callable[..., ForgetRequest],
    start_job: Callable[[], Lease],
) -> None:
    forget("ann")
    with catalog(write=False) as uow:
        snapshot = uow.state.data_version()
    completed = start_job()
    with catalog() as uow:
        advance(uow, completed, status=JobStatus.ROLLING_OUT)
        signer = Signer(Ed25519PrivateKey.generate())
        finish(uow, completed, signer, Evidence(outcome=Outcome.NOT_APPLICABLE))
    lease = train(catalog)
    release = release_of(catalog, lease, "a")
    with catalog() as uow:
        advance(uow, lease, snapshot_version=snapshot)
    with pytest.raises(StaleDataError), catalog() as uow:
        publish(uow, lease, release)
    with catalog() as uow:
        advance(uow, lease, snapshot_version=uow.state.data_version())
        publish(uow, lease, release)


def test_live_replicas_must_prepare_and_confirm(catalog: UnitOfWorkFactory) -> None:
    with catalog() as uow:
        for name in ("a", "b"):
            assert register_replica(uow, REPLICA_TTL, replica_id=name, host="h", pid=1).live is None
    with catalog() as uow:
        assert renew_replica(uow, REPLICA_TTL, "a", ReplicaState(prepared="rel")) is not None
        assert [r.id for r in unprepared(uow.replicas.live(2.0), "rel")] == ["b"]
        assert [r.id for r in unconfirmed(uow.replicas.live(2.0), "rel")] == ["a", "b"]
    with catalog() as uow:
        renew_replica(uow, REPLICA_TTL, "a", ReplicaState(serving="rel"))
        renew_replica(
            uow, REPLICA_TTL, "b", ReplicaState(problem="no memory", failed_release="rel")
        )
        assert unprepared(uow.replicas.live(2.0), "rel")[0].problem == "no memory"
        deregister_replica(uow, "b")
        assert unconfirmed(uow.replicas.live(2.0), "rel") == []


def test_release_is_refused_when_every_replica_has_failed_to_load_it(
    catalog: UnitOfWorkFactory,
) -> None:
    def is_refused() -> bool:
        with catalog(write=False) as uow:
            return all_failed(uow.replicas.live(2.0), "rel")

    def report(replica_id: str, state: ReplicaState) -> None:
        with catalog() as uow:
            renew_replica(uow, REPLICA_TTL, replica_id, state)

    assert not is_refused()  # Without replicas, the release goes live.
    with catalog() as uow:
        for name in ("a", "b", "fenced"):
            register_replica(uow, REPLICA_TTL, replica_id=name, host="h", pid=1)
        uow.replicas.fence(["fenced"])
    report("a", ReplicaState(problem="damaged", failed_release="rel"))
    assert not is_refused()
    # Problems of other releases, or of draining, do not prevent the preparation of this release.
    report("b", ReplicaState(problem="damaged", failed_release="older"))
    assert not is_refused()
    report("b", ReplicaState(problem="release older is still being read"))
    assert not is_refused()
    report("b", ReplicaState(problem="damaged", failed_release="rel"))
    assert is_refused()
    report("b", ReplicaState(prepared="rel"))
    assert not is_refused()


def test_replica_reports_since_when_and_in_which_precision_it_serves(
    catalog: UnitOfWorkFactory,
) -> None:
    def renewed(state: ReplicaState) -> Replica:
        with catalog() as uow:
            renew_replica(uow, REPLICA_TTL, "a", state)
            return uow.replicas.all()[0]

    with catalog() as uow:
        register_replica(uow, REPLICA_TTL, replica_id="a", host="h", pid=1, scorer="torch")
    assert renewed(ReplicaState()).serving_since is None
    first = renewed(ReplicaState(serving="rel", precision="float32"))
    assert (first.precision, first.scorer) == ("float32", "torch")
    assert first.software == f"lethe {VERSION}"
    assert first.serving_since is not None
    # A renewal keeps the time of the switch; another release has a later one.
    again = renewed(ReplicaState(serving="rel", prepared="next", precision="float32"))
    assert again.serving_since == first.serving_since
    switched = renewed(ReplicaState(serving="next"))
    assert switched.serving_since is not None
    assert switched.serving_since > first.serving_since
    assert (switched.precision, renewed(ReplicaState()).serving_since) == (None, None)


def test_fenced_replica_must_confirm_until_its_lease_expires(
    catalog: UnitOfWorkFactory,
) -> None:
    lease = train(catalog)
    with catalog() as uow:
        register_replica(uow, REPLICA_TTL, replica_id="a", host="h", pid=1)
        fence(uow, lease, ["a"])
        assert unprepared(uow.replicas.live(2.0), "rel") == []
        assert [r.id for r in unconfirmed(uow.replicas.live(2.0), "rel")] == ["a"]
        assert renew_replica(uow, REPLICA_TTL, "a", ReplicaState()) is None
        register_replica(uow, REPLICA_TTL, replica_id="a", host="h", pid=1)
        assert renew_replica(uow, REPLICA_TTL, "a", ReplicaState()) is not None


def test_expired_replica_cannot_renew(catalog: UnitOfWorkFactory) -> None:
    with catalog() as uow:
        uow.replicas.register("a", "h", 1, -1.0)
        assert [r.id for r in uow.replicas.live(5.0)] == ["a"]  # The replica may still answer.
        assert uow.replicas.live(0.5) == []
        assert renew_replica(uow, REPLICA_TTL, "a", ReplicaState()) is None
        uow.replicas.remove_expired(0.5)
        assert uow.replicas.all() == []


def test_flip_waits_for_a_concurrent_registration(catalog: UnitOfWorkFactory) -> None:
    """The job of the flip then sees the replica."""
    live = go_live(catalog, "a")
    started, flipped = Event(), Event()

    def run() -> None:
        started.set()
        with catalog() as uow:
            uow.releases.flip(Alias(live=live, target=None, generation=1), live)
        flipped.set()

    thread = Thread(target=run)
    with catalog() as uow:
        assert register_replica(uow, REPLICA_TTL, replica_id="a", host="h", pid=1).generation == 1
        thread.start()
        started.wait()
        assert not flipped.wait(0.2)
    thread.join()
    with catalog(write=False) as uow:
        assert uow.releases.alias().generation == 2
        assert [r.id for r in unconfirmed(uow.replicas.live(2.0), live)] == ["a"]


def test_workers_with_valid_heartbeat_are_counted(uow_factory: UnitOfWorkFactory) -> None:
    with uow_factory() as uow:
        uow.workers.beat("a", "h", 1, 30.0)
        uow.workers.beat("a", "h", 1, 30.0)
        uow.workers.beat("b", "h", 2, -0.1)
        assert uow.workers.live_count() == 1
        uow.workers.remove("a")
        assert uow.workers.live_count() == 0


def test_other_hash_key_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    for _ in range(2):
        with uow_factory() as uow:
            check_hash_key(uow, Pseudonyms(b"the first key"))
    with pytest.raises(KeyMismatchError), uow_factory() as uow:
        check_hash_key(uow, Pseudonyms(b"another key"))
