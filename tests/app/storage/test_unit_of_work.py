"""One transaction: it commits whole, rolls back whole, and says when the database is away."""

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


def test_an_error_rolls_everything_back(uow_factory: UnitOfWorkFactory) -> None:
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


def test_a_snapshot_stays_what_it_was(uow_factory: UnitOfWorkFactory) -> None:
    with uow_factory(write=False) as reader:
        before = reader.state.data_version()
        with uow_factory() as writer:
            writer.state.bump("interactions")
        assert reader.state.data_version() == before
    with uow_factory(write=False) as reader:
        assert reader.state.data_version() == before + 1


def test_a_snapshot_cannot_write(uow_factory: UnitOfWorkFactory) -> None:
    with pytest.raises((DBAPIError, DatabaseUnavailableError)), uow_factory(write=False) as uow:
        uow.people.ensure_users(["ann"])
    with uow_factory() as uow:
        uow.people.ensure_users(["ann"])


def test_bumps_never_meet(uow_factory: UnitOfWorkFactory) -> None:
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


def test_the_clock_is_the_databases(uow_factory: UnitOfWorkFactory) -> None:
    with uow_factory(write=False) as uow:
        first, second = uow.state.now(), uow.state.now()
    assert first <= second
    assert first.utcoffset() is not None


def test_an_unreachable_server_is_told_as_such() -> None:
    database = make_database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailableError), UnitOfWorkFactory(database)():
        pass


def test_a_lost_connection_is_told_as_such_and_got_over(postgres_database: Database) -> None:
    factory = UnitOfWorkFactory(postgres_database)

    def cut_off() -> None:
        with factory() as uow:
            with postgres_database.write.begin() as other:
                other.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            uow.state.data_version()

    with pytest.raises(DatabaseUnavailableError):
        cut_off()
    with factory() as uow:
        assert uow.state.data_version() == 0


def test_a_checkpoint_waits_for_readers_for_a_while_only(
    sqlite_database: Database, tmp_path: Path
) -> None:
    factory = UnitOfWorkFactory(sqlite_database)
    with factory(write=False) as reader:
        reader.state.data_version()
        with factory() as writer:
            writer.state.bump("interactions")
        assert not erase_remains(sqlite_database, wait_seconds=0.0)
    assert erase_remains(sqlite_database)
    assert (tmp_path / "lethe.db-wal").stat().st_size == 0


def test_postgresql_vacuums_known_tables_only(postgres_database: Database) -> None:
    assert erase_remains(postgres_database)
    with pytest.raises(ValueError, match="no table"):
        erase_remains(postgres_database, ["users; drop table users"])
