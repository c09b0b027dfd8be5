"""The change log is pruned below the slowest live replica, and only after a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import update

from app.services.change_log import KEEP_SECONDS, ChangeLogPruning
from app.services.replicas import ReplicaState, register_replica, renew_replica
from app.settings import Settings
from app.storage.tables import ReplicaRow

if TYPE_CHECKING:
    import pytest

    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings()
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def bump(factory: UnitOfWorkFactory, times: int) -> None:
    with factory() as uow:
        uow.state.bump("interactions", [f"u{n}" for n in range(times)])


def report(factory: UnitOfWorkFactory, replica_id: str, version: int | None) -> None:
    """Register the replica, and report the version up to which it has applied the log."""
    with factory() as uow:
        register_replica(uow, 60.0, replica_id=replica_id, host="h", pid=1)
        if version is not None:
            renew_replica(uow, 60.0, replica_id, ReplicaState(), version)


def versions(factory: UnitOfWorkFactory) -> list[int]:
    with factory(write=False) as uow:
        return [change.version for change in uow.state.changes_since(-1)]


def prune(factory: UnitOfWorkFactory) -> int:
    """Prune what all replicas have applied now, as if the time had passed."""
    pruning = ChangeLogPruning(factory, SETTINGS)
    return pruning.turn(0.0) + pruning.turn(KEEP_SECONDS)


def test_slowest_live_replica_bounds_the_pruning(uow_factory: UnitOfWorkFactory) -> None:
    bump(uow_factory, 5)
    report(uow_factory, "fast", 5)
    report(uow_factory, "slow", 2)
    assert prune(uow_factory) == 2
    assert versions(uow_factory) == [3, 4, 5]
    report(uow_factory, "slow", 4)
    assert prune(uow_factory) == 2
    with uow_factory(write=False) as uow:
        assert uow.state.data_version() == 5  # The next entry has the version 6.


def test_replica_that_has_not_reported_prevents_the_pruning(
    uow_factory: UnitOfWorkFactory,
) -> None:
    bump(uow_factory, 3)
    report(uow_factory, "new", None)
    report(uow_factory, "fast", 3)
    assert prune(uow_factory) == 0
    report(uow_factory, "new", -1)  # Its index is not built yet.
    assert prune(uow_factory) == 0


def test_replica_without_a_lease_does_not_keep_the_log(uow_factory: UnitOfWorkFactory) -> None:
    bump(uow_factory, 3)
    report(uow_factory, "gone", 1)
    with uow_factory() as uow:
        assert uow._connection is not None
        uow._connection.execute(update(ReplicaRow).values(lease_expires_at=LONG_AGO))
    assert prune(uow_factory) == 3
    assert versions(uow_factory) == []


def test_entries_stay_while_an_answer_may_need_them(uow_factory: UnitOfWorkFactory) -> None:
    pruning = ChangeLogPruning(uow_factory, SETTINGS)
    bump(uow_factory, 2)
    assert pruning.turn(0.0) == 0
    bump(uow_factory, 2)
    assert pruning.turn(60.0) == 0
    assert pruning.turn(KEEP_SECONDS - 1) == 0
    assert pruning.turn(KEEP_SECONDS) == 2
    assert pruning.turn(KEEP_SECONDS + 60.0) == 2
    assert versions(uow_factory) == []


def test_long_log_is_pruned_in_short_transactions(
    uow_factory: UnitOfWorkFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.change_log._CHUNK", 2)
    bump(uow_factory, 5)
    assert prune(uow_factory) == 5
    bump(uow_factory, 1)
    assert versions(uow_factory) == [6]
