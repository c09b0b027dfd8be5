"""Test the health checks of the containers against both databases."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from app.domain.catalog import Interaction
from app.domain.jobs import JobKind
from app.probe import check_gateway, check_relay, check_worker
from app.services.jobs import start_training
from app.storage.tables import JobRow, OutboxRow, WorkerRow

if TYPE_CHECKING:
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory


def test_a_worker_is_healthy_with_a_current_heartbeat_on_this_host(
    uow_factory: UnitOfWorkFactory,
) -> None:
    with uow_factory() as uow:
        uow.workers.beat("elsewhere", "another-host", 1, 30.0)
        uow.workers.beat("late", socket.gethostname(), 2, -1.0)
        assert "no worker" in check_worker(uow)
        uow.workers.beat("here", socket.gethostname(), 3, 30.0)
        assert check_worker(uow) == ""


def test_a_worker_that_takes_no_due_job_is_unhealthy_within_a_minute(
    uow_factory: UnitOfWorkFactory, database: Database
) -> None:
    with uow_factory() as uow:
        uow.workers.beat("here", socket.gethostname(), 3, 3600.0)
        uow.people.upsert_items([("i", "Item", {})])
        row = Interaction(user_id="u", item_id="i", rating=4.0, timestamp=1)
        uow.people.ensure_users({"u"}, holdout=set())
        uow.people.upsert_interactions([row], uow.state.bump("interactions"))
        start_training(uow, JobKind.TRAIN)
        assert check_worker(uow) == ""
    with database.write.begin() as connection:
        earlier = datetime.now(UTC) - timedelta(seconds=50)
        connection.execute(update(JobRow).values(created_at=earlier, available_at=earlier))
    with uow_factory() as uow:  # The worker has just started.
        assert check_worker(uow) == ""
    with database.write.begin() as connection:
        connection.execute(update(WorkerRow).values(started_at=earlier))
    with uow_factory() as uow:
        assert "no worker takes it" in check_worker(uow)


def test_a_relay_is_unhealthy_once_wake_ups_are_overdue(
    uow_factory: UnitOfWorkFactory, database: Database
) -> None:
    with uow_factory() as uow:
        uow.outbox.add("job", "job_1")
        assert check_relay(uow) == ""
    with database.write.begin() as connection:
        long_ago = datetime.fromtimestamp(0, UTC)
        connection.execute(update(OutboxRow).values(created_at=long_ago))
    with uow_factory() as uow:
        assert "1 wake-ups" in check_relay(uow)
        uow.outbox.mark_sent([outbox_id for outbox_id, _, _ in uow.outbox.pending(10)])
        assert check_relay(uow) == ""


@pytest.mark.parametrize("port", [1])
def test_a_gateway_that_does_not_answer_is_unhealthy(port: int) -> None:
    assert check_gateway(port)
