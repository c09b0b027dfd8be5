"""Renewals and deletions in one queue: races, preemption, deadlines, killed workers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import LeaseLostError
from app.domain.jobs import INTERRUPTIBLE_STATUSES, PREEMPTED, JobKind, JobStatus, Stage
from app.domain.renewal import ExactMode
from app.domain.requests import Outcome, RequestStatus
from app.services.forget import cancel_forget
from app.services.jobs import claim, start_training
from app.services.renewals import read_state, waits_for
from app.services.suppression import record_consent
from tests.faults.conftest import close
from tests.faults.test_pipeline import live_release
from tests.support.processes import wait_until
from tests.support.renewals import (
    DAY,
    complete,
    execute,
    get_job,
    make_renewing,
    open_job,
    owe,
    paying,
    renewals,
    take_turn,
    warnings,
)
from worker.loop import run_forever, run_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.domain.jobs import Job
    from app.storage.engine import Database
    from tests.faults.conftest import Installation


@pytest.fixture
def installation(database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation with a live release, and renewals as soon as possible."""
    made = make_renewing(database, tmp_path)
    yield made
    close(made)


def with_mode(installation: Installation, mode: str) -> None:
    installation.settings = installation.context.settings.model_copy(
        update={"exact": ExactMode(mode)}
    )
    object.__setattr__(installation.context, "settings", installation.settings)


def set_due(installation: Installation, seconds: float) -> None:
    """Move the exact deadline of all deletions to this many seconds from now."""
    with installation.context.uow_factory(write=False) as uow:
        now = uow.state.now().timestamp()
    execute(installation, "UPDATE requests SET exact_due_at = :at", at=now + seconds)


def start_renewal(installation: Installation) -> Job:
    job = take_turn(installation)
    assert job is not None
    assert job.kind is JobKind.RENEW
    return job


def test_renewal_follows_the_last_waiting_deletion(installation: Installation) -> None:
    complete(installation)
    assert run_once(installation.context, on_stage=paying(installation))
    (renewal,) = renewals(installation)
    assert (renewal.status, renewal.method) == (JobStatus.SUCCEEDED, "retrain")
    assert renewal.settings == {"reason": "idle", "seed": 0, "preemptions": 0}
    release = live_release(installation)
    assert (release.id, release.outcome) == (renewal.release, Outcome.EXACT)
    assert not run_once(installation.context)


def test_concurrent_schedulers_create_one_job(installation: Installation) -> None:
    complete(installation)
    request_id = installation.forget("u1")
    barrier = threading.Barrier(6)
    created: list[Job] = []

    def run() -> None:
        barrier.wait()
        job = take_turn(installation)
        if job is not None:
            created.append(job)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (job,) = created
    assert job.kind is JobKind.FORGET
    assert open_job(installation) == get_job(installation, job.id)
    assert installation.request(request_id).job_id == job.id


def test_concurrent_schedulers_interrupt_a_renewal_once(installation: Installation) -> None:
    complete(installation)
    renewal = start_renewal(installation)
    request_id = installation.forget("u1")
    threads = [threading.Thread(target=take_turn, args=(installation,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job = open_job(installation)
    assert job is not None
    assert installation.request(request_id).job_id == job.id
    assert get_job(installation, renewal.id).status is JobStatus.CANCELLED
    with installation.context.uow_factory(write=False) as uow:
        assert len(uow.jobs.page(50, None)) == 4  # train, forget, renew, forget


def test_deletions_interrupt_a_renewal_exactly_twice(installation: Installation) -> None:
    complete(installation)
    for count in range(2):
        renewal = start_renewal(installation)
        assert renewal.settings["preemptions"] == count
        request_id = installation.forget(f"u{count + 1}")
        batch = take_turn(installation)
        assert batch is not None
        assert batch.kind is JobKind.FORGET
        interrupted = get_job(installation, renewal.id)
        assert (interrupted.status, interrupted.error) == (JobStatus.CANCELLED, PREEMPTED)
        assert interrupted.metrics["preempted"] is True
        assert run_once(installation.context)
        assert installation.request(request_id).status is RequestStatus.COMPLETED
        owe(installation)
    renewal = start_renewal(installation)
    assert renewal.settings["preemptions"] == 2
    request_id = installation.forget("u3")
    assert take_turn(installation) is None
    with installation.context.uow_factory(write=False) as uow:
        blockers = waits_for(uow, [uow.requests.get(request_id)])
    assert (blockers[request_id].job, blockers[request_id].reason) == (renewal.id, "idle")
    # The renewal and then the deletion.
    assert run_once(installation.context, on_stage=paying(installation))
    assert get_job(installation, renewal.id).status is JobStatus.SUCCEEDED
    assert run_once(installation.context)
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    # The renewal never saw u3, so that nothing is left to make exact.
    complete(installation, "u4")
    assert start_renewal(installation).settings["preemptions"] == 0


def test_worker_without_a_relay_interrupts_its_own_renewal(installation: Installation) -> None:
    complete(installation)
    requests: list[str] = []

    def forget_at(stage: Stage) -> None:
        job = open_job(installation)
        if stage is Stage.TRAIN and job is not None and job.kind is JobKind.RENEW:
            requests.append(installation.forget("u1"))
            is_open = INTERRUPTIBLE_STATUSES.__contains__
            wait_until(
                lambda: not is_open(get_job(installation, job.id).status),
                "the renewal is not interrupted",
            )

    assert run_once(installation.context, on_stage=forget_at)
    (renewal,) = renewals(installation)
    assert (renewal.status, renewal.error) == (JobStatus.CANCELLED, PREEMPTED)
    assert installation.staged() == []
    assert run_once(installation.context)
    assert installation.request(requests[0]).status is RequestStatus.COMPLETED


def test_interrupted_worker_writes_nothing_more(installation: Installation) -> None:
    complete(installation)
    start_renewal(installation)
    with installation.context.uow_factory() as uow:
        claimed = claim(uow, "other", installation.settings)
    assert claimed is not None
    installation.forget("u1")
    assert take_turn(installation) is not None
    with pytest.raises(LeaseLostError), installation.context.uow_factory() as uow:
        uow.jobs.update(claimed[1], progress=0.5)


def test_published_renewal_is_not_interrupted(installation: Installation) -> None:
    complete(installation)
    requests: list[str] = []

    def forget_at(stage: Stage) -> None:
        if stage is Stage.ROLL_OUT and not requests:
            requests.append(installation.forget("u1"))
            assert take_turn(installation) is None
        paying(installation)(stage)

    assert run_once(installation.context, on_stage=forget_at)
    (renewal,) = renewals(installation)
    assert renewal.status is JobStatus.SUCCEEDED
    assert run_once(installation.context)
    assert installation.request(requests[0]).status is RequestStatus.COMPLETED


def test_cancel_and_consent_during_a_renewal(installation: Installation) -> None:
    completed_id = complete(installation)
    settings = installation.settings.model_copy(update={"cancel_window": 600.0})
    installation.settings = settings
    waiting: list[str] = []

    def change_at(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            # A request within its cancel window interrupts nothing.
            waiting.append(installation.forget("u1"))
            assert take_turn(installation) is None
            with installation.context.uow_factory() as uow:
                cancel_forget(uow, waiting[0])
                assert record_consent(uow, installation.context.pseudonyms, "u0", ()) == 1
        paying(installation)(stage)

    start_renewal(installation)
    assert run_once(installation.context, on_stage=change_at)
    (renewal,) = renewals(installation)
    assert renewal.status is JobStatus.SUCCEEDED
    assert installation.request(waiting[0]).status is RequestStatus.CANCELLED
    assert installation.request(completed_id).assurance == "exact"
    assert not run_once(installation.context)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["train", "audit", "publish", "roll_out", "shred"])
def test_killed_worker_of_a_renewal_is_replaced(installation: Installation, point: str) -> None:
    complete(installation)
    installation.kill(installation.start_and_stop_at(point))
    (renewal,) = renewals(installation)
    installation.end_leases()
    assert run_once(installation.context, on_stage=paying(installation))
    (finished,) = renewals(installation)
    assert (finished.id, finished.status) == (renewal.id, JobStatus.SUCCEEDED)
    assert live_release(installation).outcome is Outcome.EXACT
    assert installation.staged() == []


def test_passed_deadline_starts_a_renewal_before_the_batch(installation: Installation) -> None:
    with_mode(installation, "deadline")
    complete(installation)
    assert take_turn(installation) is None
    assert warnings(installation) == {}
    set_due(installation, -5.0)
    installation.forget("u1")
    assert "1 deletions are not exact" in warnings(installation)["renewal-late"]
    renewal = start_renewal(installation)
    assert renewal.settings["reason"] == "late"
    # The batch does not interrupt a late renewal, and the alert stays until the end.
    assert take_turn(installation) is None
    assert "renewal-late" in warnings(installation)
    assert run_once(installation.context, on_stage=paying(installation))
    assert "renewal-late" not in warnings(installation)


def test_training_that_is_longer_than_the_time_left_starts_at_once(
    installation: Installation,
) -> None:
    with_mode(installation, "deadline")
    complete(installation, seconds=2 * DAY)
    set_due(installation, DAY)
    assert "not expected to end" in warnings(installation)["renewal-late"]
    assert start_renewal(installation).settings["reason"] == "late"
    assert "not expected to end" in warnings(installation)["renewal-late"]


def test_training_of_an_operator_is_not_interrupted(installation: Installation) -> None:
    with_mode(installation, "deadline")
    complete(installation)
    with installation.context.uow_factory() as uow:
        training = start_training(uow, JobKind.RENEW)
    request_id = installation.forget("u1")
    assert take_turn(installation) is None
    with installation.context.uow_factory(write=False) as uow:
        request = uow.requests.get(request_id)
        (blocker,) = waits_for(uow, [request, installation.request(request_id)]).values()
        held = request.evolve(status=RequestStatus.ON_HOLD)
        assert waits_for(uow, [held]) == {}
    assert (blocker.job, blocker.kind, blocker.reason) == (training.id, JobKind.RENEW, None)
    set_due(installation, -5.0)
    assert f"The job {training.id} (renew) is open" in warnings(installation)["renewal-late"]
    assert take_turn(installation) is None


def test_off_starts_no_renewal(installation: Installation) -> None:
    with_mode(installation, "off")
    complete(installation)
    set_due(installation, -DAY)
    assert take_turn(installation) is None
    assert warnings(installation) == {}
    installation.forget("u1")
    run_forever(installation.context, threading.Event(), until_idle=True)
    assert renewals(installation) == []


def test_worker_that_runs_until_idle_finishes_the_renewal_that_is_due(
    installation: Installation,
) -> None:
    complete(installation)
    run_forever(
        installation.context, threading.Event(), until_idle=True, on_stage=paying(installation)
    )
    assert [job.status for job in renewals(installation)] == [JobStatus.SUCCEEDED]
    with_mode(installation, "deadline")
    complete(installation, "u1")
    run_forever(installation.context, threading.Event(), until_idle=True)
    assert len(renewals(installation)) == 1  # The next renewal is due in weeks.


def test_state_has_the_facts_of_the_live_release(installation: Installation) -> None:
    complete(installation, seconds=7.0)
    execute(
        installation,
        "UPDATE releases SET forgotten_rows = 250, drift = '{\"increase\": 0.02}'"
        " WHERE status = 'live'",
    )
    with installation.context.uow_factory(write=False) as uow:
        state = read_state(uow, installation.settings)
        empty = read_state(uow, installation.settings.model_copy(update={"batch_size": 1}))
    assert (state.approximate, state.waiting, state.batch_due_at) == (1, 0, None)
    assert (state.training_seconds, state.forgotten_share, state.drift) == (7.0, 0.25, 0.02)
    assert state.has_record
    assert state.earliest_due_at is not None
    assert state.earliest_due_at - state.now == pytest.approx(30 * DAY, abs=600)
    assert empty.batch_due_at is None
    execute(
        installation, "UPDATE releases SET training_rows = NULL, drift = '{\"increase\": null}'"
    )
    with installation.context.uow_factory(write=False) as uow:
        assert not read_state(uow, installation.settings).has_record
