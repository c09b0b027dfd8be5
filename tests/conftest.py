"""Fixtures for all tests: real databases, a hash key, and a small catalog."""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from app.domain.catalog import Interaction, User
from app.services.pseudonyms import Pseudonyms
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.migrate import migrate
from app.storage.tables import Base
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.storage.engine import Database

#: Several test processes share the cores, and small models are faster on one thread. The variable
#: must be set before torch is imported; subprocesses of the tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
#: At a lower priority than the tests beside it, a worker would hardly proceed. Tests with settings
#: of their own set the variable again.
os.environ.setdefault("LETHE_WORKER_NICE", "0")

#: Limits for sessions of tests. A machine of CI can stop for longer than a process may pause in a
#: transaction. Tests of the product's limits do without these.
PATIENT = "?connect_timeout=60&options=-cidle_in_transaction_session_timeout%3D200s"
POSTGRES_URL = os.environ.get("LETHE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no slow test runs alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Handle SIGINT, which a shell sets to ignored for background processes."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a migrated PostgreSQL database that exists during the test session."""
    name = f"lethe_test_{uuid.uuid4().hex}"
    try:
        server = psycopg.connect(f"{POSTGRES_URL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        reason = f"PostgreSQL does not respond at {POSTGRES_URL}: {error}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            url = f"{POSTGRES_URL}/{name}"
            database = make_database(url)
            migrate(database)
            database.dispose()
            yield url
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.close()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a migrated, empty SQLite database, copied to save a migration per test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = make_database(f"sqlite:///{path}")
    migrate(database)
    with database.write.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    database.dispose()
    return path.read_bytes()


@pytest.fixture
def sqlite_database(tmp_path: Path, migrated_sqlite: bytes) -> Iterator[Database]:
    path = tmp_path / "lethe.db"
    path.write_bytes(migrated_sqlite)
    database = make_database(f"sqlite:///{path}")
    yield database
    database.dispose()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    database = make_database(postgres_url + PATIENT)
    tables = ", ".join(f'"{table}"' for table in Base.metadata.tables)
    with database.write.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
        connection.execute(text("INSERT INTO state (id, data_version) VALUES (1, 0)"))
        connection.execute(text("INSERT INTO aliases (name, generation) VALUES ('live', 0)"))
    yield database
    database.dispose()


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres])],
)
def database(request: pytest.FixtureRequest) -> Database:
    """A migrated, empty database, first SQLite and then PostgreSQL."""
    database: Database = request.getfixturevalue(f"{request.param}_database")
    return database


@pytest.fixture
def uow_factory(database: Database, tmp_path: Path, pseudonyms: Pseudonyms) -> UnitOfWorkFactory:
    return UnitOfWorkFactory(database, open_ledger(str(tmp_path / "ledger"), pseudonyms))


@pytest.fixture(scope="session")
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(b"a key for tests, thirty-two bytes")


@pytest.fixture
def catalog(uow_factory: UnitOfWorkFactory) -> UnitOfWorkFactory:
    """Three users with ratings of some of five items."""
    with uow_factory() as uow:
        uow.people.upsert_items(
            [(f"i{n}", f"Item {n}", {"genre": ["Comedy" if n % 2 else "Drama"]}) for n in range(5)]
        )
        uow.people.upsert_users([User(id="ann", attributes={"gender": "F"})])
        uow.people.ensure_users(["bob", "cid"])
        uow.people.upsert_interactions(
            [
                Interaction(user_id=user_id, item_id=f"i{n}", rating=3.5, timestamp=1000 + n)
                for user_id, rated in (("ann", 4), ("bob", 3), ("cid", 1))
                for n in range(rated)
            ],
            version=0,
        )
    return uow_factory
