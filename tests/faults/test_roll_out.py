"""Roll out a release to replicas that confirm, that are slow, or that cannot load."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Self

import pytest

from app.domain.jobs import JobStatus, Stage
from app.domain.requests import RequestStatus
from app.services.replicas import ReplicaState, register_replica, renew_replica
from app.version import VERSION
from worker.loop import run_once

if TYPE_CHECKING:
    from tests.faults.conftest import Installation
    from worker.context import WorkerContext


#: Seconds of the lease of a replica that is to be fenced, and of one that is to stay live. On a
#: busy machine, the thread of a replica may not run for a second.
SHORT_TTL, LONG_TTL = 4.0, 60.0
#: Renewals in which a replica with a problem of an older release does not load the target.
OCCUPIED_POLLS = 20


class FakeReplica:
    """Follows the alias as a gateway does, without a model; `behavior` limits how far."""

    def __init__(self, installation: Installation, behavior: str) -> None:
        self.id = f"rep_{behavior}"
        self.fenced = threading.Event()
        self._factory = installation.context.uow_factory
        self._ttl = SHORT_TTL if behavior in {"unconfirming", "deaf"} else LONG_TTL
        self._behavior = behavior
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        with self._factory() as uow:
            alias = register_replica(
                uow, self._ttl, replica_id=self.id, host="h", pid=1, scorer="vllm"
            )
            renew_replica(uow, self._ttl, self.id, ReplicaState(serving=alias.live))
        self._serving = alias.live

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        state = ReplicaState(serving=self._serving)
        polls = 0
        while not self._stop.wait(0.02):
            with self._factory() as uow:
                alias = renew_replica(uow, self._ttl, self.id, state)
            if alias is None:
                self.fenced.set()
                return
            if self._behavior == "broken":
                state = ReplicaState(
                    serving=self._serving, problem="digest", failed_release=alias.target
                )
            elif self._behavior == "occupied" and alias.target and polls < OCCUPIED_POLLS:
                polls += 1
                state = ReplicaState(serving=self._serving, problem="rel_old is being read")
            elif self._behavior in {"good", "occupied"}:
                state = ReplicaState(
                    serving=alias.live, prepared=alias.target, precision="bfloat16"
                )
            elif self._behavior == "unconfirming":
                state = ReplicaState(serving=self._serving, prepared=alias.target)


def impatient(installation: Installation) -> WorkerContext:
    """Return a context whose rollouts soon fence replicas that do not confirm."""
    settings = installation.settings.model_copy(update={"rollout_timeout": 1.0})
    return replace(installation.context, settings=settings)


def test_job_ends_when_all_replicas_confirm(installation: Installation) -> None:
    request_id = installation.forget()
    with FakeReplica(installation, "good") as replica:
        assert run_once(installation.context)
        assert not replica.fenced.is_set()
    installation.check_forgotten(request_id)


def test_certificate_names_the_replicas_that_confirmed(installation: Installation) -> None:
    request_id = installation.forget()
    with FakeReplica(installation, "good") as replica:
        assert run_once(installation.context)
    content = installation.certificate(request_id)
    (confirmed,) = content["replicas"]
    confirmed_at = datetime.fromisoformat(confirmed.pop("confirmed_at"))
    assert confirmed == {
        "replica": replica.id,
        "release": content["release"],
        "precision": "bfloat16",
        "scorer": "vllm",
        "software": f"lethe {VERSION}",
    }
    assert content["fenced_replicas"] == []
    assert any("vLLM keeps unloaded adapters" in place for place in content["not_covered"])
    assert any("exported" in place for place in content["not_covered"])
    requested_at = datetime.fromisoformat(content["requested_at"])
    assert requested_at < confirmed_at < datetime.fromisoformat(content["completed_at"])


def test_certificate_names_the_replicas_that_were_fenced(installation: Installation) -> None:
    request_id = installation.forget()
    with FakeReplica(installation, "unconfirming") as replica:
        assert run_once(impatient(installation))
    content = installation.certificate(request_id)
    assert (content["replicas"], content["fenced_replicas"]) == ([], [replica.id])


@pytest.mark.parametrize("behavior", ["unconfirming", "deaf"])
def test_slow_replica_is_fenced_before_rows_are_deleted(
    installation: Installation, behavior: str
) -> None:
    request_id = installation.forget()
    margin = installation.settings.replica_margin
    live_replicas: dict[Stage, list[str]] = {}

    def record(stage: Stage) -> None:
        with installation.context.uow_factory(write=False) as uow:
            live_replicas[stage] = [replica.id for replica in uow.replicas.live(margin)]

    with FakeReplica(installation, behavior) as replica:
        assert run_once(impatient(installation), on_stage=record)
        assert replica.fenced.is_set()
    assert live_replicas[Stage.ROLL_OUT] == [replica.id]
    assert live_replicas[Stage.DELETE_ROWS] == []
    installation.check_forgotten(request_id)


def test_release_no_replica_can_load_does_not_go_live(installation: Installation) -> None:
    request_id = installation.forget()
    with installation.context.uow_factory(write=False) as uow:
        before = uow.releases.alias()
    with FakeReplica(installation, "broken") as replica:
        assert run_once(installation.context)
        assert not replica.fenced.is_set()
    with installation.context.uow_factory(write=False) as uow:
        after = uow.releases.alias()
        (job,) = (job for job in uow.jobs.page(10, None) if job.status is JobStatus.FAILED)
    assert (after.live, after.target) == (before.live, None)
    assert "no replica could load it" in (job.error or "")
    assert installation.request(request_id).status is RequestStatus.BATCHED
    # Without the broken replica, the next job succeeds and shreds the failed candidate.
    with installation.context.uow_factory() as uow:
        uow.replicas.remove(replica.id)
    assert run_once(installation.context)
    installation.check_forgotten(request_id)


def test_rollout_ends_as_soon_as_every_replica_has_failed(installation: Installation) -> None:
    # A rollout that waited for the timeout would outlast the wait for the thread.
    settings = installation.settings.model_copy(update={"rollout_timeout": 3600.0})
    context = replace(installation.context, settings=settings)
    request_id = installation.forget()
    run = threading.Thread(target=run_once, args=(context,), daemon=True)
    with FakeReplica(installation, "broken"):
        run.start()
        run.join(60.0)
        assert not run.is_alive()
    assert installation.request(request_id).status is RequestStatus.BATCHED
    with installation.context.uow_factory(write=False) as uow:
        assert uow.releases.alias().target is None


def test_rollout_waits_for_a_replica_with_another_problem(installation: Installation) -> None:
    settings = installation.settings.model_copy(update={"rollout_timeout": 60.0})
    context = replace(installation.context, settings=settings)
    request_id = installation.forget()
    with FakeReplica(installation, "occupied") as replica:
        assert run_once(context)
        assert not replica.fenced.is_set()
    installation.check_forgotten(request_id)
