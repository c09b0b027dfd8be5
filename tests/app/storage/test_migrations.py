"""Migrations create the tables of the code on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import inspect, text

from app.storage.engine import make_database
from app.storage.migrate import alembic_config, migrate
from app.storage.tables import Base
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from pathlib import Path

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
