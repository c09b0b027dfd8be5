"""Cancel a training at every stage, in a race with the flip, and by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import JobNotCancellableError
from app.domain.jobs import JobKind, JobStatus, Stage
from app.domain.releases import ReleaseStatus
from app.services.jobs import cancel, start_training
from tests.faults.test_pipeline import live_release
from tests.support.processes import PATIENCE_SECONDS, wait_until
from worker.loop import run_once
from worker.relay import Relay

if TYPE_CHECKING:
    from app.domain.jobs import Job
    from tests.faults.conftest import Installation


def start(installation: Installation) -> str:
    with installation.context.uow_factory() as uow:
        return start_training(uow, JobKind.RENEW).id


def cancel_job(installation: Installation, job_id: str) -> Job:
    with installation.context.uow_factory() as uow:
        return cancel(uow, job_id)


def get(installation: Installation, job_id: str) -> Job:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.get(job_id)


def turn(installation: Installation) -> None:
    context = installation.context
    Relay(context.settings, context.uow_factory, context.artifacts, lambda _id: None).sweep()


def check_nothing_is_left(installation: Installation, live: str) -> None:
    context = installation.context
    with context.uow_factory(write=False) as uow:
        alias = uow.releases.alias()
        statuses = {release.status for release in uow.releases.unshredded()}
        live_path = next(r.path for r in uow.releases.unshredded() if r.id == live)
    assert (alias.live, alias.target) == (live, None)
    assert statuses == {ReleaseStatus.LIVE}
    assert installation.staged() == []
    assert context.artifacts.published() == [live_path]


def test_queued_job_ends_at_once(installation: Installation) -> None:
    job_id = start(installation)
    assert cancel_job(installation, job_id).status is JobStatus.CANCELLED
    assert not run_once(installation.context)
    with pytest.raises(JobNotCancellableError, match="has ended already"):
        cancel_job(installation, job_id)
    installation.train(JobKind.RENEW)  # The cancelled job blocks no other job.


@pytest.mark.parametrize(
    "stage", [Stage.SNAPSHOT, Stage.TRAIN, Stage.AUDIT, Stage.PUBLISH, Stage.ROLL_OUT]
)
def test_running_job_stops_and_leaves_no_file(installation: Installation, stage: Stage) -> None:
    live = live_release(installation).id
    job_id = start(installation)

    def cancel_at(begun: Stage) -> None:
        if begun is stage:
            assert cancel_job(installation, job_id).status is JobStatus.CANCELLED

    assert run_once(installation.context, on_stage=cancel_at)
    assert get(installation, job_id).status is JobStatus.CANCELLED
    assert installation.staged() == []  # Before any sweep.
    turn(installation)
    check_nothing_is_left(installation, live)
    installation.train(JobKind.RENEW)


def test_job_past_the_flip_cannot_be_cancelled(installation: Installation) -> None:
    job_id = start(installation)
    refused = []

    def cancel_at(begun: Stage) -> None:
        if begun is Stage.SHRED:
            with pytest.raises(JobNotCancellableError, match="is live") as raised:
                cancel_job(installation, job_id)
            refused.append(raised)

    assert run_once(installation.context, on_stage=cancel_at)
    assert refused
    assert get(installation, job_id).status is JobStatus.SUCCEEDED


def test_deletion_job_cannot_be_cancelled(installation: Installation) -> None:
    installation.forget()

    def cancel_at(begun: Stage) -> None:
        if begun is Stage.UNLEARN:
            with installation.context.uow_factory(write=False) as uow:
                job = uow.jobs.open_job()
            assert job is not None
            with pytest.raises(JobNotCancellableError, match="deletion request instead"):
                cancel_job(installation, job.id)

    assert run_once(installation.context, on_stage=cancel_at)


@pytest.mark.parametrize("_round", range(4))
def test_cancel_and_flip_never_both_succeed(installation: Installation, _round: int) -> None:
    before = live_release(installation).id
    job_id = start(installation)
    results: list[JobStatus | Exception] = []

    def try_to_cancel() -> None:
        try:
            results.append(cancel_job(installation, job_id).status)
        except JobNotCancellableError as error:
            results.append(error)

    thread = Thread(target=try_to_cancel)

    def cancel_at(begun: Stage) -> None:
        if begun is Stage.ROLL_OUT:
            thread.start()

    assert run_once(installation.context, on_stage=cancel_at)
    thread.join()
    if results == [JobStatus.CANCELLED]:
        assert get(installation, job_id).status is JobStatus.CANCELLED
        turn(installation)
        check_nothing_is_left(installation, before)
    else:
        assert get(installation, job_id).status is JobStatus.SUCCEEDED
        check_nothing_is_left(installation, live_release(installation).id)
        assert live_release(installation).id != before


@pytest.mark.slow
def test_killed_worker_of_a_cancelled_job_leaves_no_file(installation: Installation) -> None:
    live = live_release(installation).id
    job_id = start(installation)
    process = installation.start_and_stop_at("roll_out")
    cancel_job(installation, job_id)
    installation.kill(process)
    turn(installation)
    check_nothing_is_left(installation, live)


@pytest.mark.slow
def test_suspended_worker_of_a_cancelled_job_changes_nothing(installation: Installation) -> None:
    live = live_release(installation).id
    job_id = start(installation)
    process = installation.start_and_stop_at("publish")
    cancel_job(installation, job_id)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()
    check_nothing_is_left(installation, live)


def store_ratings_for_a_long_training(installation: Installation) -> None:
    """Store so many ratings that a training does not end before it is interrupted."""
    ratings = [
        Interaction(
            user_id=f"v{user}", item_id=f"j{(7 * user + n) % 300}", rating=1.0 + n % 5, timestamp=n
        )
        for user in range(300)
        for n in range(60)
    ]
    with installation.context.uow_factory() as uow:
        uow.people.upsert_items([(f"j{n}", f"Item {n}", {}) for n in range(300)])
        uow.people.ensure_users([f"v{user}" for user in range(300)])
        uow.people.upsert_interactions(ratings, version=uow.state.bump("interactions"))


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # A real training takes seconds.
def test_interrupted_train_command_cancels_its_job(empty_installation: Installation) -> None:
    installation = empty_installation
    store_ratings_for_a_long_training(installation)
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "train"],
        env=installation.environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:

        def is_claimed() -> bool:
            with installation.context.uow_factory(write=False) as uow:
                jobs = uow.jobs.page(1, None)
            return any(job.status is not JobStatus.QUEUED for job in jobs)

        wait_until(lambda: is_claimed() or process.poll() is not None, "no worker claimed the job")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with installation.context.uow_factory(write=False) as uow:
        (job,) = uow.jobs.page(9, None)
    assert process.returncode == 130, output
    assert f"The job {job.id} is cancelled" in output.decode().replace("\n", " ")
    assert job.status is JobStatus.CANCELLED
    turn(installation)
    assert installation.staged() == []
    installation.train()
