"""Store the data versions of the first and the last write of each row, and the holdout flags."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.catalog import Interaction, User
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.imports import import_data
from app.services.interactions import add_interactions
from app.services.users import store_users
from app.settings import Settings
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database


def rating(user: str, item: str, stars: float = 3.0, timestamp: int = 9) -> Interaction:
    return Interaction(user_id=user, item_id=item, rating=stars, timestamp=timestamp)


def versions(factory: UnitOfWorkFactory, user: str) -> dict[str, tuple[int, int]]:
    with factory(write=False) as uow:
        return {
            row.interaction.item_id: (row.first_version, row.last_version)
            for row in uow.people.recorded_interactions()
            if row.interaction.user_id == user
        }


def data_version(factory: UnitOfWorkFactory) -> int:
    with factory(write=False) as uow:
        return uow.state.data_version()


def add(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, *rows: Interaction) -> int:
    """Store the ratings and return the data version."""
    with factory() as uow:
        add_interactions(uow, pseudonyms, rows)
        return uow.state.data_version()


def load(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, *rows: Interaction) -> int:
    """Import the ratings and return the data version."""
    import_data(factory, pseudonyms, users=[], items=[], interactions=rows)
    return data_version(factory)


@pytest.mark.parametrize("write", [add, load])
def test_write_sets_versions_and_changed_value_sets_the_last(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, write: Callable[..., int]
) -> None:
    first = write(catalog, pseudonyms, rating("dan", "i0"), rating("dan", "i1"))
    second = write(catalog, pseudonyms, rating("dan", "i0", 5.0), rating("dan", "i1"))
    third = write(catalog, pseudonyms, rating("dan", "i1", timestamp=10))
    assert first < second < third
    assert versions(catalog, "dan") == {"i0": (first, second), "i1": (first, third)}


@pytest.mark.parametrize("write", [add, load])
def test_identical_import_changes_no_version(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, write: Callable[..., int]
) -> None:
    rows = [rating("dan", "i0"), rating("dan", "i1", 4.5), rating("eve", "i1")]
    before = write(catalog, pseudonyms, *rows)
    stored = versions(catalog, "dan")
    assert write(catalog, pseudonyms, *rows) == before
    assert versions(catalog, "dan") == stored


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        (ForgetCommand(user_id="ann"), {"i0", "i1", "i2", "i3"}),
        (ForgetCommand(user_id="ann", item_ids=("i1", "i2")), {"i1", "i2"}),
        (ForgetCommand(item_id="i1"), {"i1"}),
    ],
)
def test_cancel_raises_the_last_version_of_the_subjects_rows(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, command: ForgetCommand, changed: set[str]
) -> None:
    with catalog() as uow:
        request, _ = request_forget(uow, pseudonyms, Settings(), command)
    with catalog() as uow:
        cancel_forget(uow, request.id)
    now = data_version(catalog)
    expected = {f"i{n}": (0, now if f"i{n}" in changed else 0) for n in range(4)}
    assert versions(catalog, "ann") == expected
    others = {item for item, (_, last) in versions(catalog, "bob").items() if last}
    assert others == ({"i1"} if command.item_id else set())


@pytest.mark.parametrize("door", ["interactions", "import", "users", "imported users"])
def test_raised_holdout_share_affects_new_users_only(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, door: str
) -> None:
    every = replace(pseudonyms, holdout_share=1.0)
    users = [User(id=user) for user in ("ann", "dan")]
    rows = [rating(user, "i4") for user in ("ann", "dan")]
    if door == "import":
        load(catalog, every, *rows)
    elif door == "interactions":
        add(catalog, every, *rows)
    elif door == "users":
        with catalog() as uow:
            store_users(uow, every, users)
    else:
        import_data(catalog, every, users=users, items=[], interactions=[])
    with catalog(write=False) as uow:
        assert uow.people.holdout_users() == {"dan"}
    # A lowered share changes no stored flag either.
    with catalog() as uow:
        store_users(uow, pseudonyms, users)
    with catalog(write=False) as uow:
        assert uow.people.holdout_users() == {"dan"}


def test_returning_user_gets_the_same_draw(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    half = replace(pseudonyms, holdout_share=0.5)
    users = [User(id=f"user {n}") for n in range(20)]
    drawn = []
    for _ in range(2):
        with catalog() as uow:
            store_users(uow, half, users)
            drawn.append(uow.people.holdout_users())
            for user in users:
                uow.people.delete_user(user.id)
    assert drawn[0] == drawn[1]
    assert 0 < len(drawn[0]) < len(users)


@pytest.mark.postgres
def test_versions_are_ordered_as_transactions_commit(
    postgres_database: Database, pseudonyms: Pseudonyms
) -> None:
    factory = UnitOfWorkFactory(postgres_database)
    with factory() as uow:
        uow.people.upsert_items([("i0", "Item", {})])
    is_waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    second = threading.Thread(target=add, args=(factory, pseudonyms, rating("second", "i0")))
    with factory() as uow:
        add_interactions(uow, pseudonyms, [rating("first", "i0")])
        second.start()
        with postgres_database.read.connect() as connection:
            while second.is_alive() and not connection.execute(is_waiting).scalar_one():
                connection.rollback()
        assert second.is_alive()
        # A snapshot that is read now has neither row, and its version is below both.
        snapshot_version = data_version(factory)
        assert versions(factory, "first") == versions(factory, "second") == {}
    second.join()
    (first_row,), (second_row,) = (
        versions(factory, "first").values(),
        versions(factory, "second").values(),
    )
    assert snapshot_version < first_row[0] < second_row[0]
