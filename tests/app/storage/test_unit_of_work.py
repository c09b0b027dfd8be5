"""The unit of work commits or rolls back completely, and reports an absent database."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import DBAPIError

from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import make_database
from app.storage.maintenance import erase_remains
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database


def test_error_rolls_back_all_writes(uow_factory: UnitOfWorkFactory) -> None:
    def write_and_stop() -> None:
        with uow_factory() as uow:
            uow.people.ensure_users(["ann"])
            uow.state.bump("interactions")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    with uow_factory(write=False) as uow:
        assert uow.people.counts()["users"] == 0
        assert uow.state.data_version() == 0


def test_snapshot_does_not_see_later_commits(uow_factory: UnitOfWorkFactory) -> None:
    with uow_factory(write=False) as reader:
        before = reader.state.data_version()
        with uow_factory() as writer:
            writer.state.bump("interactions")
        assert reader.state.data_version() == before
    with uow_factory(write=False) as reader:
        assert reader.state.data_version() == before + 1


def test_snapshot_refuses_writes(uow_factory: UnitOfWorkFactory) -> None:
    with pytest.raises((DBAPIError, DatabaseUnavailableError)), uow_factory(write=False) as uow:
        uow.people.ensure_users(["ann"])
    with uow_factory() as uow:
        uow.people.ensure_users(["ann"])


def test_concurrent_bumps_give_distinct_versions(uow_factory: UnitOfWorkFactory) -> None:
    barrier = Barrier(4)

    def bump() -> None:
        barrier.wait()
        for _ in range(5):
            with uow_factory() as uow:
                uow.state.bump("interactions", ["a", "b"])

    threads = [Thread(target=bump) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with uow_factory(write=False) as uow:
        assert [change.version for change in uow.state.changes_since(0)] == list(range(1, 41))


def test_database_clock_is_monotonic_and_aware(uow_factory: UnitOfWorkFactory) -> None:
    with uow_factory(write=False) as uow:
        first, second = uow.state.now(), uow.state.now()
    assert first <= second
    assert first.utcoffset() is not None


def test_unreachable_server_raises_database_unavailable() -> None:
    database = make_database("postgresql://postgres@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailableError), UnitOfWorkFactory(database)():
        pass


def test_lost_connection_raises_and_next_unit_succeeds(postgres_database: Database) -> None:
    factory = UnitOfWorkFactory(postgres_database)

    def lose_connection() -> None:
        with factory() as uow:
            with postgres_database.write.begin() as other:
                other.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            uow.state.data_version()

    with pytest.raises(DatabaseUnavailableError):
        lose_connection()
    with factory() as uow:
        assert uow.state.data_version() == 0


def test_checkpoint_blocked_by_a_reader_times_out(
    sqlite_database: Database, tmp_path: Path
) -> None:
    factory = UnitOfWorkFactory(sqlite_database)
    with factory(write=False) as reader:
        reader.state.data_version()
        with factory() as writer:
            writer.state.bump("interactions")
        assert erase_remains(sqlite_database, wait_seconds=0.0) is not None
    assert erase_remains(sqlite_database) is None
    assert (tmp_path / "lethe.db-wal").stat().st_size == 0


def test_postgresql_vacuums_the_tables_with_plain_ids(postgres_database: Database) -> None:
    assert erase_remains(postgres_database) is None
