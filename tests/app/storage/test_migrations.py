"""Migrations create the tables of the code on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import inspect, text

from app.storage.engine import make_database
from app.storage.migrate import alembic_config, migrate
from app.storage.session_limits import GATEWAY, SessionLimits
from app.storage.tables import Base
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alembic.config import Config

    from app.storage.engine import Database


def test_migrated_tables_match_the_code(database: Database) -> None:
    config = alembic_config()
    with database.write.begin() as connection:
        config.attributes["connection"] = connection
        command.check(config)  # Raises if the tables differ.
        assert set(inspect(connection).get_table_names()) >= set(Base.metadata.tables)


def test_downgrade_and_upgrade_restore_the_schema(database: Database) -> None:
    config = alembic_config()
    with database.write.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(config, "head")
    with UnitOfWorkFactory(database)(write=False) as uow:
        assert uow.state.data_version() == 0
        assert uow.releases.alias().generation == 0


def test_many_log_entries_do_not_prolong_the_lock(postgres_database: Database) -> None:
    config = alembic_config()
    with postgres_database.write.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        connection.execute(
            text("INSERT INTO users SELECT 'u' || n, '{}' FROM generate_series(1, 150000) n")
        )
        connection.execute(
            text(
                "INSERT INTO data_changes"
                " SELECT n, 'interactions', 'u' || n FROM generate_series(1, 150000) n"
            )
        )
        connection.execute(text("ANALYZE"))
        # A plan that compares every entry with every user takes many minutes.
        connection.execute(text("SET LOCAL statement_timeout = '60s'"))
        command.upgrade(config, "head")


@pytest.fixture
def before_0005(postgres_database: Database, postgres_url: str) -> Iterator[Database]:
    """A database of the previous version, with another pool than the one that migrates."""
    config = alembic_config()
    with postgres_database.write.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
    earlier = make_database(postgres_url, SessionLimits(lock=20.0))
    yield earlier
    earlier.dispose()
    migrate(postgres_database)


@pytest.mark.postgres
def test_data_version_outgrows_32_bits(postgres_database: Database, before_0005: Database) -> None:
    with before_0005.write.begin() as connection:
        connection.execute(text(f"UPDATE state SET data_version = {2**31 - 1}"))
        # More than the migration keeps.
        connection.execute(
            text(
                "INSERT INTO data_changes"
                f" SELECT {2**31 - 1} - n, 'interactions', 'u' || n"
                " FROM generate_series(0, 100100) n"
            )
        )
    migrate(postgres_database)
    with UnitOfWorkFactory(postgres_database)() as uow:
        assert uow.state.bump("interactions", ["a", "b"]) == 2**31 + 1
        kept = [change.version for change in uow.state.changes_since(0)]
    assert kept == list(range(2**31 - 100_000, 2**31 + 2))
    query = (
        "SELECT table_name || '.' || column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type <> 'bigint' AND column_name IN"
        " ('data_version', 'version', 'completed_version', 'frozen_version')"
    )
    statistics = (
        "SELECT attstattarget FROM pg_attribute"
        " WHERE attrelid = 'data_changes'::regclass AND attname = 'user_id'"
    )
    with postgres_database.read.connect() as connection:
        assert connection.execute(text(query)).scalars().all() == []
        assert connection.execute(text(statistics)).scalar_one() == 0


@pytest.mark.postgres
def test_sessions_with_prepared_statements_survive_the_migration(
    postgres_database: Database, before_0005: Database
) -> None:
    factory = UnitOfWorkFactory(before_0005)

    def read() -> int:
        with factory(write=False) as uow:
            return uow.state.standing([]).data_version

    for _ in range(10):  # The driver prepares a statement that is repeated.
        assert read() == 0
    migrate(postgres_database)
    assert read() == 0


@pytest.mark.postgres
def test_long_read_neither_stops_the_service_nor_the_migration(
    postgres_database: Database, before_0005: Database
) -> None:
    factory = UnitOfWorkFactory(before_0005)
    with ThreadPoolExecutor(1) as pool:
        with factory(write=False) as long_read:
            long_read.state.data_version()
            migration = pool.submit(migrate, postgres_database)
            wait_until(lambda: is_waiting(before_0005), "the migration does not wait")
            # Behind a lock that waits for the long read, this would wait as long.
            with factory() as uow:
                uow.state.lock()
            assert not migration.done()
        migration.result()


@pytest.mark.postgres
def test_long_read_does_not_stop_the_service_during_the_newest_migration(
    postgres_database: Database, postgres_url: str
) -> None:
    config = alembic_config()
    with postgres_database.write.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
    earlier = make_database(postgres_url, SessionLimits(lock=20.0))
    with ThreadPoolExecutor(1) as pool:
        with UnitOfWorkFactory(earlier)(write=False) as long_read:
            long_read.state.data_version()
            migration = pool.submit(migrate, postgres_database)
            wait_until(lambda: is_waiting(earlier), "the migration does not wait")
            with UnitOfWorkFactory(earlier)() as uow:
                uow.state.lock()
            assert not migration.done()
        migration.result()
    earlier.dispose()


@pytest.mark.postgres
def test_migration_does_not_end_another_that_waits(
    postgres_database: Database, before_0005: Database
) -> None:
    """Two machines are upgraded at once; the second has nothing to do, and must not fail."""
    with ThreadPoolExecutor(2) as pool:
        with UnitOfWorkFactory(before_0005)(write=False) as long_read:
            long_read.state.data_version()
            migrations = [pool.submit(migrate, postgres_database) for _ in range(2)]
            wait_until(lambda: is_waiting(before_0005), "no migration waits for the read")
            wait_until(lambda: is_waiting(before_0005, "advisory"), "no migration waits")
        for migration in migrations:
            migration.result()


@pytest.mark.postgres
def test_migration_may_pause(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration of many rows may compute between two statements."""
    database = make_database(postgres_url, GATEWAY)
    limits: list[str] = []

    def record(config: Config, _revision: str) -> None:
        query = text("SHOW idle_in_transaction_session_timeout")
        limits.append(config.attributes["connection"].execute(query).scalar_one())

    monkeypatch.setattr(command, "upgrade", record)
    migrate(database)
    database.dispose()
    assert limits == ["0"]


def is_waiting(database: Database, kind: str = "relation") -> bool:
    """Return whether a session waits for a lock of this kind, by default on a table."""
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = :kind")
    with database.write.connect() as connection:
        return bool(connection.execute(query, {"kind": kind}).scalar_one())


def test_concurrent_migrations_succeed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'lethe.db'}"

    def start(_number: int) -> int:
        database = make_database(url)
        migrate(database)
        with UnitOfWorkFactory(database)(write=False) as uow:
            version = uow.state.data_version()
        database.dispose()
        return version

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [0, 0, 0, 0]


def test_sqlite_pragmas_are_set(sqlite_database: Database) -> None:
    expected = {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "secure_delete": 1,
        "synchronous": 2,
    }
    with sqlite_database.write.connect() as connection:
        pragmas = {p: connection.execute(text(f"PRAGMA {p}")).scalar_one() for p in expected}
    assert pragmas == expected


@pytest.mark.parametrize("url", ["sqlite://", "mysql://x/y"])
def test_unsupported_database_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="database"):
        make_database(url)
