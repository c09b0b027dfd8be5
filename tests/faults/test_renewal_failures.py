"""Renewals that fail, are cancelled or abandoned, and the try that follows."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from app.domain.jobs import CANCELLED_BY_RESTORE, JobKind, JobStatus, Stage
from app.domain.requests import RequestStatus
from app.services.jobs import cancel, claim, start_training, sweep
from app.services.renewals import read_state
from tests.faults.conftest import close
from tests.support.renewals import (
    complete,
    execute,
    get_job,
    make_renewing,
    open_job,
    paying,
    renewals,
    take_turn,
    warnings,
)
from worker.loop import run_forever, run_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.storage.engine import Database
    from tests.faults.conftest import Installation


@pytest.fixture
def installation(database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation with one approximate deletion and a renewal that is due."""
    made = make_renewing(database, tmp_path, LETHE_RETRY_DELAY="100")
    complete(made)
    yield made
    close(made)


def failing(error: Exception) -> Callable[[Stage], None]:
    """Return a hook that raises the error when a training begins."""

    def at_train(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            raise error

    return at_train


def set_back(installation: Installation, seconds: float) -> None:
    """Let the last renewals have ended this many seconds earlier."""
    execute(
        installation,
        "UPDATE jobs SET finished_at = finished_at - :seconds WHERE kind = 'renew'",
        seconds=seconds,
    )


def test_failed_renewal_is_tried_again_after_a_growing_delay(installation: Installation) -> None:
    for failures, delay in enumerate([100.0, 200.0, 400.0], start=1):
        assert run_once(installation.context, on_stage=failing(KeyError()))
        assert renewals(installation)[0].status is JobStatus.FAILED
        assert f"{failures} renewals failed" in warnings(installation)["renewal-failed"]
        assert "train: KeyError" in warnings(installation)["renewal-failed"]
        set_back(installation, delay - 50.0)
        assert take_turn(installation) is None
        set_back(installation, 50.0)
    assert run_once(installation.context, on_stage=paying(installation))
    assert renewals(installation)[0].status is JobStatus.SUCCEEDED
    assert "renewal-failed" not in warnings(installation)


def test_failures_count_after_the_clock_was_set_back(installation: Installation) -> None:
    execute(installation, "UPDATE releases SET live_at = live_at + 86400")
    execute(
        installation,
        "UPDATE jobs SET created_at = created_at + 86400, finished_at = finished_at + 86400",
    )
    assert run_once(installation.context, on_stage=failing(KeyError()))
    assert "1 renewal" in warnings(installation)["renewal-failed"]
    assert take_turn(installation) is None
    set_back(installation, 110.0)
    assert take_turn(installation) is not None


def test_failure_in_the_future_delays_no_renewal(installation: Installation) -> None:
    assert run_once(installation.context, on_stage=failing(KeyError()))
    set_back(installation, -86_400.0)
    assert take_turn(installation) is not None


def test_batch_runs_while_a_failed_renewal_waits(installation: Installation) -> None:
    assert run_once(installation.context, on_stage=failing(KeyError()))
    request_id = installation.forget("u1")
    assert run_once(installation.context)
    assert installation.request(request_id).status is RequestStatus.COMPLETED


def test_seed_changes_only_after_a_failed_quality_check(installation: Installation) -> None:
    seeds = []
    for has_failed_check in (False, True, True, False):
        assert run_once(installation.context, on_stage=failing(KeyError()))
        renewal = renewals(installation)[0]
        seeds.append(renewal.settings["seed"])
        if has_failed_check:
            execute(
                installation,
                "UPDATE jobs SET metrics = '{\"quality_failed\": true}' WHERE id = :id",
                id=renewal.id,
            )
        set_back(installation, 10_000.0)
    assert seeds == [0, 0, 1, 2]
    assert run_once(installation.context, on_stage=paying(installation))
    assert renewals(installation)[0].settings["seed"] == 2
    complete(installation, "u1")
    renewal = take_turn(installation)
    assert renewal is not None
    assert renewal.settings["seed"] == 0


def test_environment_failure_is_retried_by_the_same_job(installation: Installation) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert run_once(installation.context, on_stage=failing(full))
    job = open_job(installation)
    assert job is not None
    assert (job.kind, job.attempts, job.failed_tries) == (JobKind.RENEW, 0, 1)
    installation.end_leases()
    assert run_once(installation.context, on_stage=paying(installation))
    assert get_job(installation, job.id).status is JobStatus.SUCCEEDED


def test_environment_failure_ends_the_renewal_for_a_deletion_that_waits(
    installation: Installation,
) -> None:
    execute(installation, "UPDATE requests SET exact_due_at = 1")  # Nothing may interrupt it.
    assert take_turn(installation) is not None
    request_id = installation.forget("u1")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert run_once(installation.context, on_stage=failing(full))
    assert renewals(installation)[0].status is JobStatus.FAILED
    assert run_once(installation.context)
    assert installation.request(request_id).status is RequestStatus.COMPLETED


def test_environment_failure_ends_the_training_of_an_operator(installation: Installation) -> None:
    with installation.context.uow_factory() as uow:
        job = start_training(uow, JobKind.RENEW)
    full = OSError(errno.ENOSPC, "No space left on device")
    assert run_once(installation.context, on_stage=failing(full))
    assert get_job(installation, job.id).status is JobStatus.FAILED
    assert "renewal-failed" not in warnings(installation)


def test_abandoned_renewal_counts_as_a_failure(installation: Installation) -> None:
    job = take_turn(installation)
    assert job is not None
    with installation.context.uow_factory() as uow:
        assert claim(uow, "other", installation.settings) is not None
    execute(
        installation,
        "UPDATE jobs SET attempts = :attempts, lease_expires_at = 1 WHERE kind = 'renew'",
        attempts=installation.settings.job_attempts,
    )
    with installation.context.uow_factory() as uow:
        assert sweep(uow, installation.settings).abandoned == (job.id,)
    assert "1 renewals failed" in warnings(installation)["renewal-failed"]
    assert take_turn(installation) is None
    set_back(installation, 101.0)
    assert take_turn(installation) is not None


@pytest.mark.parametrize("is_late", [False, True])
def test_cancel_by_an_operator_postpones_the_next_renewal_unless_late(
    installation: Installation, is_late: bool
) -> None:
    job = take_turn(installation)
    assert job is not None
    with installation.context.uow_factory() as uow:
        cancel(uow, job.id)
    with installation.context.uow_factory(write=False) as uow:
        state = read_state(uow, installation.settings)
    assert state.cancelled_at is not None
    assert state.retry_at is None
    if is_late:
        execute(installation, "UPDATE requests SET exact_due_at = 1")
    else:
        assert take_turn(installation) is None
        set_back(installation, 601.0)
    assert take_turn(installation) is not None


def test_renewal_that_a_restore_interrupts_is_not_postponed(installation: Installation) -> None:
    job = take_turn(installation)
    assert job is not None
    with installation.context.uow_factory() as uow:
        cancel(uow, job.id, CANCELLED_BY_RESTORE)
    assert take_turn(installation) is not None


def test_failing_renewal_does_not_keep_an_idle_worker(installation: Installation) -> None:
    """Without a shortest delay, LETHE_RETRY_DELAY=0 would repeat the renewal forever."""
    settings = installation.settings.model_copy(update={"retry_delay": 0.0})
    object.__setattr__(installation.context, "settings", settings)
    run_forever(
        installation.context, threading.Event(), until_idle=True, on_stage=failing(KeyError())
    )
    assert {job.status for job in renewals(installation)} == {JobStatus.FAILED}


def test_renewal_without_any_row_left_is_started(installation: Installation) -> None:
    execute(installation, "DELETE FROM interactions")
    job = take_turn(installation)
    assert job is not None
    assert job.kind is JobKind.RENEW
