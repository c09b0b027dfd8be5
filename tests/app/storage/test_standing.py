"""The one statement that every recommendation is checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from app.domain.catalog import User
from app.domain.errors import DatabaseUnavailableError
from app.services.forget import ForgetCommand, request_forget
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory
from benchmarks.round_trips import counting_proxy

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database

SETTINGS = Settings(cancel_window=60.0)


@pytest.fixture
def users(uow_factory: UnitOfWorkFactory) -> UnitOfWorkFactory:
    with uow_factory() as uow:
        uow.people.upsert_users([User(id="ann", attributes={"age": "25"}), User(id="bob")])
    return uow_factory


def test_changes_are_those_after_the_given_version(users: UnitOfWorkFactory) -> None:
    with users() as uow:
        start = uow.state.data_version()
        uow.state.bump("interactions", ["ann"])
        newest_item = uow.state.bump("items")
        cancel = uow.state.bump("cancel", ["bob"])
        version = uow.state.bump("completed")
    standing = users.standing([], start, ["ann", "bob", "cyd"])
    assert standing.data_version == version
    assert standing.changes.is_complete
    assert (standing.changes.overtaking, standing.changes.cancel) == (newest_item, cancel)
    assert {name: asker.is_changed for name, asker in standing.askers.items()} == {
        "ann": True,
        "bob": True,
    }
    assert standing.askers["ann"].user == User(id="ann", attributes={"age": "25"})
    later = users.standing([], newest_item, ["ann", "bob"])
    assert (later.changes.overtaking, later.changes.cancel) == (0, cancel)
    assert {name: asker.is_changed for name, asker in later.askers.items()} == {
        "ann": False,
        "bob": True,
    }
    nothing = users.standing([], version, ["ann"])
    assert (nothing.changes.overtaking, nothing.changes.cancel) == (0, 0)
    assert not nothing.askers["ann"].is_changed


def test_a_change_without_a_user_may_concern_every_user(users: UnitOfWorkFactory) -> None:
    with users() as uow:
        start = uow.state.data_version()
        uow.state.bump("interactions")
    assert users.standing([], start, ["ann"]).askers["ann"].is_changed


def test_a_shortened_log_is_incomplete(users: UnitOfWorkFactory) -> None:
    with users() as uow:
        start = uow.state.data_version()
        uow.state.bump("interactions", ["ann"])
        version = uow.state.bump("interactions", ["ann"])
        uow.state.prune_log(version - 1, 10)
    assert not users.standing([], start).changes.is_complete
    assert users.standing([], version - 1).changes.is_complete
    assert users.standing([], version).changes.is_complete


def test_suppressed_hashes_and_users_are_read_together(
    users: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with users() as uow:
        request_forget(uow, pseudonyms, SETTINGS, ForgetCommand.of("ann", (), None))
    hashes = [pseudonyms.user(name) for name in ("ann", "bob", "cyd")]
    standing = users.standing(hashes, None, ["ann", "bob"])
    assert standing.suppressed == {hashes[0]}
    assert set(standing.askers) == {"ann", "bob"}


@pytest.mark.postgres
@pytest.mark.usefixtures("postgres_database")
def test_the_check_is_one_round_trip(postgres_url: str) -> None:
    with counting_proxy(postgres_url) as (url, counter):
        database = make_database(url)
        factory = UnitOfWorkFactory(database)
        for _ in range(8):  # The driver prepares a statement after some executions.
            factory.standing(["h"], 0, ["ann"])
        before = counter.count
        factory.standing(["h"], 0, ["ann"])
        assert counter.count - before == 1
        database.dispose()


@pytest.mark.postgres
def test_a_lost_connection_is_replaced(postgres_database: Database, postgres_url: str) -> None:
    factory = UnitOfWorkFactory(postgres_database)
    with postgres_database.check.connect() as connection:
        process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (process,))
    assert factory.standing([]).data_version == 0


def test_an_unreachable_server_is_unavailable() -> None:
    factory = UnitOfWorkFactory(make_database("postgresql://postgres@127.0.0.1:1/none"))
    with pytest.raises(DatabaseUnavailableError):
        factory.standing([])
