"""Kill a worker at every point, or suspend it past its lease: the deletion completes once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.conftest import close, fill, make_installation
from tests.support.processes import PATIENCE_SECONDS
from worker.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow

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
    "scrubbed",
    "certify",
    "finished",
)


@pytest.mark.parametrize("point", STAGES)
def test_killed_worker_another_finishes(installation: Installation, point: str) -> None:
    request_id = installation.forget()
    installation.kill(installation.start_and_stop_at(point))
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)


def test_lease_of_a_killed_worker_expires_by_itself(database: Database, tmp_path: Path) -> None:
    installation = make_installation(database, tmp_path)
    installation.environment["LETHE_JOB_LEASE"] = "3"
    try:
        fill(installation.context)
        installation.train()
        request_id = installation.forget()
        killed = installation.start_and_stop_at("unlearn")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        successor = installation.start()
        _, errors = successor.communicate(timeout=PATIENCE_SECONDS)
        assert successor.returncode == 0, errors
        installation.check_forgotten(request_id)
    finally:
        close(installation)


@pytest.mark.parametrize("point", ["unlearn", "publish", "roll_out", "shred", "certify"])
def test_suspended_worker_changes_nothing_after_lease_loss(
    installation: Installation, point: str
) -> None:
    request_id = installation.forget()
    suspended = installation.start_and_stop_at(point)
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    before = installation.state()
    suspended.send_signal(signal.SIGCONT)
    _, errors = suspended.communicate(timeout=PATIENCE_SECONDS)
    assert suspended.returncode == 0
    # The error of a write, or that of a missing file, which the worker cannot record any more.
    assert b"lease_lost" in errors or b"LeaseLostError" in errors
    assert installation.state() == before
    # The suspended worker may still write to the staging directory of its own epoch.
    context = installation.context
    Relay(context.settings, context.uow_factory, context.artifacts, lambda _id: None).sweep()
    installation.check_forgotten(request_id)


def test_sigterm_gives_job_back(installation: Installation) -> None:
    request_id = installation.forget()
    stopping = installation.start_and_stop_at("audit")
    stopping.send_signal(signal.SIGTERM)
    stopping.send_signal(signal.SIGCONT)
    _, errors = stopping.communicate(timeout=PATIENCE_SECONDS)
    assert stopping.returncode == 0
    assert b"lease_lost" not in errors
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
