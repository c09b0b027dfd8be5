"""`/readyz` and `/metrics` report workers and jobs that no worker runs; jobs can be cancelled."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.api.attention import AttentionReader
from app.domain.jobs import Failure, JobKind, JobStatus, Stage
from app.services.attention import Attention, read_attention
from app.services.jobs import (
    advance,
    cancel,
    claim,
    close_batch,
    fail,
    record_failure,
    start_training,
)
from app.services.renewals import schedule
from app.services.replicas import ReplicaState, register_replica, renew_replica
from tests.support.gateway_world import serving, until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from app.domain.jobs import Lease
    from app.storage.unit_of_work import UnitOfWork
    from tests.support.gateway_world import World


def attention(world: World) -> Attention:
    with world.uow(write=False) as uow:
        return read_attention(uow, world.settings)


def codes(world: World) -> list[str]:
    return [warning.code for warning in attention(world).warnings]


def start(world: World) -> str:
    with world.uow() as uow:
        return start_training(uow, JobKind.TRAIN).id


def take(world: World) -> Lease:
    with world.uow() as uow:
        claimed = claim(uow, "w", world.settings)
    assert claimed is not None
    return claimed[1]


def set_back(world: World, table: str, column: str, seconds: float) -> None:
    with world.uow() as uow:
        uow._connection.execute(text(f"UPDATE {table} SET {column} = {column} - {seconds}"))


def test_queued_job_without_worker_is_reported_after_a_lease(world: World) -> None:
    start(world)
    assert codes(world) == []
    set_back(world, "jobs", "available_at", world.settings.job_lease + 1)
    assert codes(world) == ["no-worker"]
    assert attention(world).without_worker == 1
    with world.uow() as uow:
        uow.workers.beat("secret-id", "machine-7", 1, world.settings.job_lease)
    assert codes(world) == []
    (worker,) = attention(world).workers
    assert (worker.host, worker.is_live) == ("machine-7", True)
    assert worker.heartbeat_age < 30
    # A worker that runs and consumes nothing is reported as well.
    set_back(world, "workers", "started_at", 41)
    assert codes(world) == ["job-not-taken"]
    assert attention(world).without_worker == 1


def test_deletions_without_worker_are_reported(world: World) -> None:
    world.forget("u1")
    assert codes(world) == []
    set_back(world, "requests", "cancellable_until", 2 * world.settings.job_lease + 61)
    assert codes(world) == ["no-worker"]


def test_job_of_a_killed_worker_is_reported(world: World) -> None:
    start(world)
    take(world)
    with world.uow() as uow:
        uow.workers.beat("w", "machine-7", 1, world.settings.job_lease)
    assert codes(world) == []
    for table in ("jobs", "workers"):
        set_back(world, table, "lease_expires_at", world.settings.job_lease + 5)
    assert codes(world) == ["lease-expired"]
    (worker,) = attention(world).workers
    assert not worker.is_live
    assert worker.heartbeat_age > world.settings.job_lease


def test_job_past_the_flip_whose_try_failed_is_reported(world: World) -> None:
    start(world)
    lease = take(world)
    failure = Failure(text="shred: OSError: Input/output error", signature="shred: OSError")
    with world.uow() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT, stage=Stage.SHRED)
        record_failure(uow, lease, failure, world.settings)
    state = attention(world)
    assert (state.stuck, state.failed_tries) == (1, 1)
    (warning,) = state.warnings
    assert (warning.code, warning.job_id) == ("job-stuck", lease.job_id)
    assert "shred: OSError: Input/output error" in warning.detail


def test_deletions_that_are_retried_are_reported(world: World) -> None:
    world.forget("u1")
    set_back(world, "requests", "cancellable_until", 200.0)
    with world.uow() as uow:
        close_batch(uow, world.settings)
    lease = take(world)
    with world.uow() as uow:
        fail(uow, lease, "unlearn: KeyError", world.settings)
    assert "deletions-retried" in codes(world)


def test_problem_of_a_rollout_is_a_warning_and_a_metric_of_every_gateway(world: World) -> None:
    assert codes(world) == []
    with world.uow() as uow:
        for name in ("rep_a", "rep_b"):
            register_replica(uow, 60.0, replica_id=name, host="machine-7", pid=1)
        state = ReplicaState(problem="release rel_x cannot be loaded: OSError")
        renew_replica(uow, 60.0, "rep_a", state)
    (warning,) = attention(world).warnings
    assert warning.code == "rollout-problem"
    assert "1 of 2" in warning.detail
    assert "release rel_x cannot be loaded: OSError" in warning.detail
    _, metrics = read_all(world)
    assert "lethe_replicas_with_problem 1.0" in metrics
    with world.uow() as uow:
        renew_replica(uow, 60.0, "rep_a", ReplicaState())
    assert codes(world) == []


def owe(world: World, seconds_left: float) -> str:
    """Complete an approximate deletion that must be exact after this many seconds."""
    request_id = world.forget("u1")
    set_back(world, "requests", "cancellable_until", 200.0)
    world.complete()
    with world.uow() as uow:
        due_at = uow.state.now().timestamp() + seconds_left
        uow._connection.execute(
            text("UPDATE requests SET assurance = 'approximate', exact_due_at = :at"),
            {"at": due_at},
        )
    return request_id


def read_all(world: World) -> tuple[dict[str, Any], str]:
    """Return the answer of `/readyz` and the metrics."""

    async def whole() -> tuple[dict[str, Any], str]:
        async with serving(world.app()) as client:
            ready = (await client.get("/readyz")).json()
            while ready["warnings"] is None:  # A slow machine did not answer in time.
                ready = (await client.get("/readyz")).json()
            return ready, (await client.get("/metrics")).text

    return asyncio.run(whole())


def test_readyz_and_metrics_show_the_next_renewal(world: World) -> None:
    ready, metrics = read_all(world)
    assert ready["renewal"] is None
    assert "lethe_approximate_deletions 0.0" in metrics
    assert "\nlethe_exact_deadline_seconds" not in metrics
    owe(world, 500_000.0)
    ready, metrics = read_all(world)
    assert ready["renewal"]["approximate"] == 1
    assert ready["renewal"]["reason"] == "no-record"  # No release has a measured training.
    assert ready["renewal"]["start_at"] < ready["renewal"]["earliest_due_at"]
    assert ready["warnings"] == []
    assert "lethe_approximate_deletions 1.0" in metrics
    assert "\nlethe_exact_deadline_seconds 4" in metrics
    assert "lethe_renewals_started_total 0.0" in metrics
    with world.uow() as uow:
        job = schedule(uow, world.settings)
    assert job is not None
    set_back(world, "requests", "exact_due_at", 1_000_000.0)
    ready, metrics = read_all(world)
    assert ready["renewal"]["reason"] == "no-record"
    assert "\nlethe_exact_deadline_seconds -5" in metrics
    assert "lethe_renewals_started_total 1.0" in metrics
    (warning,) = ready["warnings"]
    assert (warning["code"], warning["job_id"]) == ("renewal-late", job.id)
    with world.uow() as uow:
        cancel(uow, job.id)
    _, metrics = read_all(world)
    assert 'lethe_renewals_ended_total{result="cancelled"} 1.0' in metrics
    assert 'lethe_renewals_ended_total{result="failed"} 0.0' in metrics


def test_requests_show_the_renewal_for_which_they_wait(world: World) -> None:
    completed_id = owe(world, 500_000.0)
    with world.uow() as uow:
        job = schedule(uow, world.settings)
    assert job is not None
    request_id = world.forget("u2")

    async def whole(client: httpx.AsyncClient) -> None:
        # Within its cancel window, the request does not wait for a job.
        assert (await client.get(f"/forget/{request_id}")).json()["waits_for"] is None
        set_back(world, "requests", "cancellable_until", 200.0)
        expected = {"job": job.id, "kind": "renew", "reason": "no-record"}
        assert (await client.get(f"/forget/{request_id}")).json()["waits_for"] == expected
        items = (await client.get("/forget")).json()["items"]
        assert {item["id"]: item["waits_for"] for item in items} == {
            request_id: expected,
            completed_id: None,
        }
        assert (await client.get(f"/jobs/{job.id}")).json()["reason"] == "no-record"

    async def run() -> None:
        async with serving(world.app()) as client:
            await whole(client)

    asyncio.run(run())


class BlockedUnits:
    """A database that does not answer before `released` is set."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = 0

    def __call__(self, *, write: bool) -> UnitOfWork:
        self.calls += 1
        self.released.wait()
        raise AssertionError(write)


@pytest.fixture
def blocked() -> Iterator[BlockedUnits]:
    units = BlockedUnits()
    yield units
    units.released.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_slow_database_neither_delays_nor_changes_readiness(
    world: World, blocked: BlockedUnits
) -> None:
    async def whole() -> None:
        app = world.app()
        async with serving(app) as client:
            lease, name = world.publish(1)
            await asyncio.to_thread(world.through, lease, name)
            await until_ready(client)
            reader = AttentionReader(world.settings, blocked)  # type: ignore[arg-type] # a stand-in
            object.__setattr__(app.state.gateway, "attention", reader)
            for _ in range(3):
                answer = await client.get("/readyz")
                assert answer.status_code == 200
                assert answer.json()["warnings"] is None
        assert blocked.calls == 1

    asyncio.run(whole())


def test_readyz_and_metrics_show_workers_and_warnings(world: World) -> None:
    start(world)
    set_back(world, "jobs", "available_at", world.settings.job_lease + 1)

    ready, metrics = read_all(world)
    assert (ready["worker_count"], ready["workers"]) == (0, [])
    assert [warning["code"] for warning in ready["warnings"]] == ["no-worker"]
    assert "lethe_workers 0.0" in metrics
    assert "lethe_jobs_waiting_without_worker 1.0" in metrics
    assert "lethe_jobs_stuck 0.0" in metrics


def test_job_is_cancelled_through_the_api(world: World) -> None:
    job_id = start(world)

    async def whole(client: httpx.AsyncClient) -> None:
        unknown = await client.post("/jobs/job_none/cancel")
        assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-job")
        cancelled = await client.post(f"/jobs/{job_id}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        again = await client.post(f"/jobs/{job_id}/cancel")
        assert (again.status_code, again.json()["type"]) == (409, "/problems/job-not-cancellable")
        assert "has ended already" in again.json()["detail"]

    async def run() -> None:
        async with serving(world.app()) as client:
            await whole(client)

    asyncio.run(run())
