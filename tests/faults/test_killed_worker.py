"""A worker is killed, or frozen and woken too late, at every point: the deletion happens once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from worker.relay import Relay

if TYPE_CHECKING:
    from tests.faults.conftest import Installation

STAGES = (
    "snapshot",
    "unlearn",
    "merge",
    "audit",
    "publish",
    "roll_out",
    "delete_rows",
    "shred",
    "unlinked",
    "certify",
    "finished",
)


@pytest.mark.parametrize("point", STAGES)
def test_another_worker_finishes_after_kill_9(installation: Installation, point: str) -> None:
    request_id = installation.forget()
    installation.kill(installation.start_and_stop_at(point))
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)


@pytest.mark.parametrize("point", ["unlearn", "publish", "roll_out", "shred", "certify"])
def test_a_stopped_worker_changes_nothing_when_it_wakes(
    installation: Installation, point: str
) -> None:
    request_id = installation.forget()
    stopped = installation.start_and_stop_at(point)
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    before = installation.state()
    stopped.send_signal(signal.SIGCONT)
    _, errors = stopped.communicate(timeout=30)
    assert stopped.returncode == 0
    assert b"lease_lost" in errors
    assert installation.state() == before
    # What it still wrote lies under its own epoch, and the sweeper takes it away.
    context = installation.context
    Relay(context.settings, context.uow_factory, context.artifacts, lambda _id: None).sweep()
    installation.check_forgotten(request_id)


def test_a_worker_that_is_told_to_stop_gives_its_job_back(installation: Installation) -> None:
    request_id = installation.forget()
    stopping = installation.start_and_stop_at("audit")
    stopping.send_signal(signal.SIGTERM)
    stopping.send_signal(signal.SIGCONT)
    _, errors = stopping.communicate(timeout=30)
    assert stopping.returncode == 0
    assert b"lease_lost" not in errors
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
