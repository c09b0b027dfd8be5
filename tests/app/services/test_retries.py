"""Retries of requests: a batch that fails is halved until the request that fails is alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.jobs import Failure, JobStatus, Lease, Stage
from app.domain.requests import ForgetRequest, RequestStatus
from app.services.forget import release_forget
from app.services.jobs import claim, close_batch, fail, record_failure, sweep
from app.services.retries import MAX_BACK_OFF, back_off, has_lost_rows
from app.settings import Settings

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWorkFactory

Forget = Callable[..., ForgetRequest]
SETTINGS = Settings(
    cancel_window=0.0,
    batch_seconds=0.0,
    batch_size=8,
    retry_delay=0.0,
    request_failures=2,
    job_attempts=1,
)
POISON = "a poison request"


class Queue:
    """Runs jobs without a worker: a job that contains a poison request fails in `unlearn`."""

    def __init__(self, factory: UnitOfWorkFactory) -> None:
        self.factory = factory
        self.poisons: set[str] = set()
        self._numbers = count()

    def add_users(self, forget: Forget, number: int) -> list[str]:
        names = [f"user {next(self._numbers)}" for _ in range(number)]
        with self.factory() as uow:
            uow.people.ensure_users(names)
            uow.people.upsert_interactions(
                [
                    Interaction(user_id=name, item_id="i1", rating=4.0, timestamp=9)
                    for name in names
                ],
                uow.state.bump("interactions"),
            )
        return [forget(name).id for name in names]

    def claim(self) -> tuple[Lease, list[str]] | None:
        with self.factory() as uow:
            close_batch(uow, SETTINGS)
        with self.factory() as uow:
            claimed = claim(uow, "w", SETTINGS)
            if claimed is None:
                return None
            lease = claimed[1]
            return lease, [request.id for request in uow.requests.of_job(lease.job_id)]

    def run(self, signature: str = "unlearn: KeyError") -> list[str] | None:
        """Run the next job; return its requests, or None if there is no job."""
        taken = self.claim()
        if taken is None:
            return None
        lease, request_ids = taken
        with self.factory() as uow:
            uow.jobs.update(lease, stage=Stage.UNLEARN)
            if self.poisons.intersection(request_ids):
                fail(uow, lease, POISON, SETTINGS, signature=signature)
                return request_ids
            uow.jobs.update(lease, stage=Stage.AUDIT, metrics={"stage_seconds": {"unlearn": 1.0}})
            uow.jobs.update(lease, status=JobStatus.ROLLING_OUT, stage=Stage.DELETE_ROWS)
            for request in uow.requests.of_job(lease.job_id):
                uow.requests.change_status(request, [request.status], status=RequestStatus.BATCHED)
            for request in uow.requests.of_job(lease.job_id):
                uow.requests.change_status(
                    request, [request.status], status=RequestStatus.COMPLETED, subject=None
                )
            uow.jobs.update(lease, status=JobStatus.SUCCEEDED)
        return request_ids

    def run_until_stuck(self, limit: int = 60) -> list[int]:
        """Run jobs until none is left or each further job fails; return the sizes of batches."""
        sizes = []
        for _ in range(limit):
            taken = self.run()
            if taken is None:
                break
            sizes.append(len(taken))
        return sizes

    def get(self, request_id: str) -> ForgetRequest:
        with self.factory(write=False) as uow:
            return uow.requests.get(request_id)

    def statuses(self, request_ids: list[str]) -> list[RequestStatus]:
        return [self.get(request_id).status for request_id in request_ids]


@pytest.fixture
def queue(catalog: UnitOfWorkFactory) -> Queue:
    return Queue(catalog)


def test_poison_among_eight_is_dead_alone(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 8)
    queue.poisons = {ids[5]}
    sizes = queue.run_until_stuck()
    assert sizes[:2] == [8, 8]  # The first failure keeps the batch together.
    assert max(sizes[2:]) == 4
    assert queue.get(ids[5]).status is RequestStatus.DEAD
    others = [request_id for request_id in ids if request_id != ids[5]]
    assert set(queue.statuses(others)) == {RequestStatus.COMPLETED}
    assert all(queue.get(request_id).failures == 0 for request_id in others)


def test_two_poisons_in_both_halves_are_dead_alone(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 8)
    queue.poisons = {ids[1], ids[6]}
    queue.run_until_stuck()
    dead = [request_id for request_id in ids if queue.get(request_id).status is RequestStatus.DEAD]
    assert dead == sorted(queue.poisons)
    rest = [request_id for request_id in ids if request_id not in queue.poisons]
    assert set(queue.statuses(rest)) == {RequestStatus.COMPLETED}


def test_request_alone_is_never_dead_while_no_other_batch_passes(
    queue: Queue, forget: Forget
) -> None:
    (request_id,) = queue.add_users(forget, 1)
    queue.poisons = {request_id}
    assert queue.run_until_stuck(limit=6) == [1] * 6
    request = queue.get(request_id)
    assert (request.status, request.failures) == (RequestStatus.BATCHED, 0)
    assert request.last_failure == "unlearn: KeyError"
    queue.poisons = set()
    assert queue.run() == [request_id]
    assert queue.get(request_id).status is RequestStatus.COMPLETED


def test_only_poisons_are_never_dead(queue: Queue, forget: Forget) -> None:
    """The stage fails for every batch, so the requests are not the reason."""
    ids = queue.add_users(forget, 3)
    queue.poisons = set(ids)
    queue.run_until_stuck(limit=20)
    assert set(queue.statuses(ids)) == {RequestStatus.BATCHED}
    queue.poisons = set()
    queue.run_until_stuck()
    assert set(queue.statuses(ids)) == {RequestStatus.COMPLETED}


def test_different_error_keeps_batch_together(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 4)
    queue.poisons = {ids[0]}
    for signature in ("unlearn: KeyError", "audit: KeyError", "unlearn: KeyError"):
        assert queue.run(signature) == ids
    assert queue.run("unlearn: KeyError") == ids
    assert queue.run("unlearn: KeyError") == ids[:2]


def test_new_requests_do_not_join_a_failing_batch(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 2)
    queue.poisons = {ids[0]}
    assert queue.run() == ids
    later = queue.add_users(forget, 2)
    assert queue.run() == ids
    assert later in (queue.run(), queue.run(), queue.run())
    assert set(queue.statuses(later)) == {RequestStatus.COMPLETED}


def test_waiting_retry_does_not_block_other_requests(queue: Queue, forget: Forget) -> None:
    (poison,) = queue.add_users(forget, 1)
    taken = queue.claim()
    assert taken is not None
    slow = SETTINGS.model_copy(update={"retry_delay": 1000.0})
    with queue.factory() as uow:
        fail(uow, taken[0], POISON, slow)
    later = queue.add_users(forget, 1)
    assert queue.run() == later
    assert queue.run() is None
    assert queue.get(poison).status is RequestStatus.BATCHED


def test_failure_of_the_environment_never_counts(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 2)
    disk_full = Failure(text="train: full", signature="train: OSError", is_environmental=True)
    job_ids = set()
    for attempt in range(1, 6):
        taken = queue.claim()
        assert taken is not None
        job_ids.add(taken[0].job_id)
        with queue.factory() as uow:
            assert record_failure(uow, taken[0], disk_full, SETTINGS) is JobStatus.RUNNING
        with queue.factory() as uow:
            assert sweep(uow, SETTINGS).abandoned == ()
            job = uow.jobs.get(taken[0].job_id)
        assert (job.error, job.failed_tries) == ("train: full", attempt)
    assert len(job_ids) == 1
    assert queue.run() == ids
    with queue.factory(write=False) as uow:
        assert uow.jobs.get(job_ids.pop()).error is None
    assert set(queue.statuses(ids)) == {RequestStatus.COMPLETED}


def test_lost_worker_counts_like_an_error(queue: Queue, forget: Forget) -> None:
    """A request that makes the worker run out of memory is found by halving too."""
    ids = queue.add_users(forget, 2)
    for expected in (ids, ids, ids[:1]):
        taken = queue.claim()
        assert taken is not None
        assert taken[1] == expected
        with queue.factory() as uow:
            uow.jobs.renew(taken[0], -1.0)
        with queue.factory() as uow:
            assert sweep(uow, SETTINGS).abandoned == (taken[0].job_id,)


def test_released_dead_request_starts_fresh(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 2)
    queue.poisons = {ids[0]}
    queue.run_until_stuck()
    assert queue.get(ids[0]).status is RequestStatus.DEAD
    with queue.factory() as uow:
        assert close_batch(uow, SETTINGS) is None
        revived = release_forget(uow, ids[0])
    assert (revived.status, revived.failures) == (RequestStatus.BATCHED, 0)
    assert (revived.last_failure, revived.retry_group, revived.retry_at) == (None, None, None)
    queue.poisons = set()
    assert queue.run() == ids[:1]


def test_every_job_of_a_request_is_recorded(queue: Queue, forget: Forget) -> None:
    ids = queue.add_users(forget, 2)
    queue.poisons = {ids[0]}
    for _ in range(3):
        queue.run()
    with queue.factory(write=False) as uow:
        jobs = [taken.job_id for taken in uow.request_jobs.of_request(ids[0])]
        assert jobs == [job.id for job in reversed(uow.jobs.page(9, None))]


def test_back_off_doubles_up_to_its_limit() -> None:
    assert back_off(0.0, 9) == 0.0
    assert 8.0 <= back_off(10.0, 1) <= 12.0
    assert 32.0 <= back_off(10.0, 3) <= 48.0
    assert back_off(10.0, 10_000) <= MAX_BACK_OFF * 1.2


def test_request_whose_rows_are_gone_is_retrained(
    queue: Queue, forget: Forget, catalog: UnitOfWorkFactory
) -> None:
    """A job of an earlier version died after it had deleted the rows."""
    gone, stored = queue.add_users(forget, 2)
    with catalog() as uow:
        uow.people.delete_user("user 0")
        assert has_lost_rows(uow, uow.requests.get(gone))
        assert not has_lost_rows(uow, uow.requests.get(stored))
