"""The upgrade clears identifiers that earlier versions left, and statistics of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from alembic import command
from sqlalchemy import text

from app.storage.maintenance import erase_remains
from app.storage.migrate import alembic_config
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.traces import traces_in_pages, traces_in_tables
from worker.scrubbing import erase_owed

if TYPE_CHECKING:
    from app.storage.engine import Database

PERSON: Final = "person-8c1f0b7e"
ITEM: Final = "item-77ab03"
_REQUEST: Final = (
    "INSERT INTO requests (id, scope, user_id, item_ids, subject_hashes, status, created_at,"
    " due_at, cancellable_until, failures, progress) "
    "VALUES (:id, :scope, :user, :items, '[]', :status, 1, 1, 1, 0, 0)"
)
_JOB: Final = (
    "INSERT INTO jobs (id, model, kind, status, method, stage, progress, attempts, epoch,"
    " available_at, settings, metrics, error, created_at) VALUES ('job_1', 'default', 'forget',"
    " 'failed', 'e2urec', 'snapshot', 0, 1, 1, 1, '{}', '{}', :error, 1)"
)


def migrate_to(database: Database, revision: str) -> None:
    config = alembic_config()
    with database.write.begin() as connection:
        config.attributes["connection"] = connection
        move = command.downgrade if revision == "0002" else command.upgrade
        move(config, revision)


@pytest.fixture
def earlier(database: Database) -> Database:
    """Provide a database of the previous version after the deletion of a person and an item."""
    migrate_to(database, "0002")
    requests: list[dict[str, Any]] = [
        {"id": "req_1", "scope": "user", "user": PERSON, "items": None, "status": "cancelled"},
        {
            "id": "req_2",
            "scope": "item",
            "user": None,
            "items": f'["{ITEM}"]',
            "status": "cancelled",
        },
        {"id": "req_3", "scope": "user", "user": PERSON, "items": None, "status": "completed"},
        {
            "id": "req_4",
            "scope": "user_items",
            "user": "bob",
            "items": f'["{ITEM}", "kept"]',
            "status": "on_hold",
        },
    ]
    with database.write.begin() as connection:
        connection.execute(text("INSERT INTO users (id, attributes) VALUES ('bob', '{}')"))
        connection.execute(
            text(
                """INSERT INTO items (id, title, attributes, "slot", retired)
                VALUES ('kept', '', '{}', 0, false)"""
            )
        )
        connection.execute(text(_REQUEST), requests)
        connection.execute(text(_JOB), {"error": f"snapshot: The catalog does not have {ITEM}."})
        connection.execute(
            text("INSERT INTO data_changes VALUES (1, 'interactions', :user), (2, 'users', 'bob')"),
            {"user": PERSON},
        )
    return database


def test_upgrade_clears_identifiers_of_ended_requests_log_and_errors(earlier: Database) -> None:
    assert traces_in_tables(earlier, [PERSON, ITEM])

    migrate_to(earlier, "head")

    assert traces_in_tables(earlier, [PERSON, ITEM]) == []
    factory = UnitOfWorkFactory(earlier)
    with factory(write=False) as uow:
        subject = uow.requests.get("req_4").subject
        assert subject is not None
        assert (subject.user_id, subject.item_ids) == ("bob", ("kept",))
        assert [change.user_id for change in uow.state.changes_since(0)] == [None, "bob"]
        assert [scrub.kind for scrub in uow.scrubs.open_ones()] == ["database"]
    erase_owed(factory)
    with factory(write=False) as uow:
        assert uow.scrubs.open_ones() == []


@pytest.mark.postgres
def test_upgrade_removes_statistics_of_ids_and_collects_none(postgres_database: Database) -> None:
    database = postgres_database
    migrate_to(database, "0002")
    with database.write.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (id, attributes) SELECT :user || n, '{}' "
                "FROM generate_series(1, 50) AS n"
            ),
            {"user": PERSON},
        )
        connection.exec_driver_sql("ANALYZE users")
    with database.write.begin() as connection:
        connection.exec_driver_sql("DELETE FROM users")
    with database.write.begin() as connection:
        connection.exec_driver_sql("ANALYZE users")
    # The reason for the migration: ANALYZE of an empty table keeps the old statistics.
    assert traces_in_tables(database, [PERSON]) == ["pg_stats"]

    migrate_to(database, "head")

    assert traces_in_tables(database, [PERSON]) == []
    assert erase_remains(database) is None
    assert traces_in_pages(database, [PERSON]) == set()
    with database.write.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (id, attributes) SELECT :user || n, '{}' "
                "FROM generate_series(1, 50) AS n"
            ),
            {"user": PERSON},
        )
        connection.exec_driver_sql("ANALYZE")
    assert traces_in_tables(database, [PERSON]) == ["users"]


@pytest.mark.postgres
def test_planner_uses_the_indexes_without_statistics_of_ids(postgres_database: Database) -> None:
    with postgres_database.write.begin() as connection:
        for statement in (
            "INSERT INTO users (id, attributes) SELECT n, '{}' FROM generate_series(1, 500) n",
            """INSERT INTO items (id, title, attributes, "slot", retired)
            SELECT n, '', '{}', n, false FROM generate_series(1, 100) n""",
            (
                "INSERT INTO interactions (user_id, item_id, rating, timestamp)"
                " SELECT u, i, 4, 1 FROM generate_series(1, 500) u, generate_series(1, 100) i"
            ),
            "ANALYZE",
        ):
            connection.exec_driver_sql(statement)
        for query in (
            "SELECT * FROM users WHERE id = '7'",
            "SELECT * FROM interactions WHERE user_id = '7' ORDER BY timestamp, item_id",
            "SELECT * FROM interactions WHERE item_id = '7'",
        ):
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {query}").scalars())
            assert "Seq Scan" not in plan, plan
