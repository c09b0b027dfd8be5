"""Take snapshots of a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from worker.stages.snapshot import take_snapshot

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory


def test_snapshot_tells_items_that_leave_with_their_last_ratings(
    database: Database, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    """An item of unknown origin leaves with its ratings if nothing but its id describes it."""
    origins = {"listed": "catalog", "rated": "ratings", "old": None, "old and bare": None}
    with uow_factory() as uow:
        uow.people.upsert_items(
            [(item_id, item_id if "bare" in item_id else "A title", {}) for item_id in origins]
        )
    with database.write.begin() as connection:
        for item_id, origin in origins.items():
            connection.execute(
                text("UPDATE items SET origin = :origin WHERE id = :id"),
                {"id": item_id, "origin": origin},
            )
    snapshot = take_snapshot(uow_factory, pseudonyms, job_id="job")
    assert {item.id for item in snapshot.data.items if item.from_ratings} == {
        "rated",
        "old and bare",
    }
    assert snapshot.requests == {}
