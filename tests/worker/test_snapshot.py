"""Take snapshots of a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from app.domain.catalog import Interaction, ItemOrigin
from app.services.forget import ForgetCommand, request_forget
from app.services.interactions import add_interactions
from app.services.jobs import close_batch
from app.serving.retrieval.catalog_snapshot import CatalogSnapshot
from app.settings import Settings
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


def test_snapshot_and_candidates_hide_the_texts_of_one_user(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    texts = "Max loved it", {"genre": ["Ours"]}
    with uow_factory() as uow:
        uow.people.upsert_items([("listed", *texts)])
        uow.people.upsert_items([("rated", *texts)], ItemOrigin.RATER)
        items = uow.people.items()
    (listed, rated) = take_snapshot(uow_factory, pseudonyms, job_id="job").data.items
    assert (listed.title, listed.attributes) == ("Max loved it", {"genre": ("Ours",)})
    assert (rated.title, rated.attributes, rated.from_ratings) == ("rated", {}, True)
    catalog = CatalogSnapshot(items)
    candidates = [catalog.candidate(catalog.by_id[name]) for name in ("listed", "rated")]
    assert [(c.title, dict(c.attributes)) for c in candidates] == [texts, ("rated", {})]
    # Answers of the service show the texts.
    assert catalog.by_id["rated"].title == "Max loved it"


def test_snapshot_names_users_whose_other_rows_a_later_batch_forgets(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    """The request of a rating waits in a batch when the same user asks for everything."""
    settings = Settings(cancel_window=0.0, batch_seconds=0.0)
    items = ["i0", "i1", "i2"]
    with uow_factory() as uow:
        uow.people.upsert_items([(item_id, item_id, {}) for item_id in items])
        rows = [
            Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=2000)
            for user_id in ("ann", "bob")
            for item_id in items
        ]
        add_interactions(uow, pseudonyms, rows)
    with uow_factory() as uow:
        for user_id in ("ann", "bob"):
            command = ForgetCommand.of(user_id, ["i1"], None)
            request_forget(uow, pseudonyms, settings, command)
    with uow_factory() as uow:
        job = close_batch(uow, settings)
        assert job is not None
        request_forget(uow, pseudonyms, settings, ForgetCommand(user_id="ann"))
    snapshot = take_snapshot(uow_factory, pseudonyms, job_id=job.id)
    assert len(snapshot.data) == 4
    assert snapshot.incomplete == {"ann"}
