"""What the erasure leaves in the files of SQLite."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from app.domain.catalog import Interaction, User
from app.storage.maintenance import erase_remains
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database

USERS, DELETED, ITEMS, RATINGS = 3000, 800, 300, 6


def _fill(factory: UnitOfWorkFactory, source: random.Random) -> list[str]:
    """Store users in random order, which splits many pages of the indexes."""
    users = [f"marker-{source.getrandbits(64):016x}@example.org" for _ in range(USERS)]
    for start in range(0, USERS, 100):
        portion = users[start : start + 100]
        rows = [
            Interaction(user_id=user, item_id=f"i{item}", rating=4.0, timestamp=1)
            for user in portion
            for item in source.sample(range(ITEMS), RATINGS)
        ]
        with factory() as uow:
            uow.people.upsert_items([(f"i{n}", f"Item {n}", {}) for n in range(ITEMS)])
            uow.people.upsert_users([User(id=user, attributes={}) for user in portion])
            version = uow.state.bump("interactions", portion)
            uow.people.upsert_interactions(rows, version)
    return users


def test_pages_of_sqlite_keep_no_id_of_deleted_users(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """`secure_delete` overwrites rows where they are, but not copies that a split page left."""
    source = random.Random(5)
    factory = UnitOfWorkFactory(sqlite_database)
    deleted = source.sample(_fill(factory, source), DELETED)
    for user in deleted:
        with factory() as uow:
            uow.state.forget_user_in_log(user)
            uow.people.delete_user(user)
    assert erase_remains(sqlite_database) is None
    content = b"".join(path.read_bytes() for path in tmp_path.glob("lethe.db*"))
    assert [user for user in deleted if user.encode() in content] == []
