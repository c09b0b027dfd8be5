"""After `completed`, no table and no file of an installation has an id of a deleted subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text

from app.domain.catalog import Interaction, User
from app.domain.requests import RequestStatus
from app.services.forget import ForgetCommand, cancel_forget, hold_forget, request_forget
from app.services.interactions import add_interactions
from app.services.items import store_items
from app.services.users import store_users
from tests.support.processes import PATIENCE_SECONDS
from tests.support.traces import guide_rows, traces_in_files, traces_in_pages, traces_in_tables

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow

#: With a combining character, a quotation mark and a space, which encodings change.
PERSON: Final = 'Ju\u0308rgen "8c1f0b7e" M\u00fcller'
CITY: Final = "Go\u0308rlitz-51aa07"
ITEM: Final = 'Bu\u0308ch "77ab03"'
TITLE: Final = "Title by 3fe19c"
GENRE: Final = "genre-90d4b2"
KEY: Final = "key-of-c31f55"
MARKERS: Final = (PERSON, CITY, ITEM, TITLE, GENRE, KEY)


def record(installation: Installation, command: ForgetCommand, key: str = "") -> ForgetRequest:
    with installation.context.uow_factory() as uow:
        request, _ = request_forget(
            uow, installation.context.pseudonyms, installation.settings, command, key or None
        )
    return request


def plant(installation: Installation) -> list[str]:
    """Store the markers in every table that can hold them; return ids that must complete."""
    context = installation.context
    with context.uow_factory() as uow:
        store_items(uow, context.pseudonyms, [(ITEM, TITLE, {"genre": [GENRE]})])
        store_users(uow, context.pseudonyms, [User(id=PERSON, attributes={"city": CITY})])
        rows = [(PERSON, "i1"), (PERSON, "i2"), (PERSON, ITEM), ("u1", ITEM), ("u2", ITEM)]
        add_interactions(
            uow,
            context.pseudonyms,
            [Interaction(user_id=u, item_id=i, rating=4.0, timestamp=1000) for u, i in rows],
        )
    installation.train()
    for command in (
        ForgetCommand(user_id=PERSON),
        ForgetCommand(user_id=PERSON, item_ids=("i1", ITEM)),
        ForgetCommand(item_id=ITEM),
    ):
        cancelled = record(installation, command, f"{KEY} {command}")
        with context.uow_factory() as uow:
            cancel_forget(uow, cancelled.id)
    waiting = [
        record(installation, ForgetCommand(user_id=PERSON, item_ids=(item,)), f"{KEY} {item}")
        for item in ("i1", "i2")
    ]
    only_item = record(installation, ForgetCommand(user_id="u1", item_ids=(ITEM,)))
    with_item = record(installation, ForgetCommand(user_id="u2", item_ids=(ITEM, "i2")))
    with context.uow_factory() as uow:
        for request in (waiting[0], only_item, with_item):
            hold_forget(uow, request.id)
    with context.database.write.begin() as connection:
        dead = text("UPDATE requests SET status = 'dead' WHERE id = :id")
        connection.execute(dead, {"id": waiting[1].id})
    person = record(installation, ForgetCommand(user_id=PERSON), f"{KEY} {PERSON}")
    item = record(installation, ForgetCommand(item_id=ITEM), f"{KEY} {ITEM}")
    return [request.id for request in (*waiting, only_item, person, item)]


def test_completed_deletions_leave_no_marker_in_tables_files_and_logs(
    empty_installation: Installation,
) -> None:
    installation = empty_installation
    database = installation.context.database
    completing = plant(installation)
    in_clear = {n for n, (before, _) in guide_rows("Tables").items() if before != "nothing"}
    assert set(traces_in_tables(database, MARKERS)) == in_clear
    assert traces_in_files(installation.settings.home, MARKERS)

    worker = installation.start()
    _, log = worker.communicate(timeout=PATIENCE_SECONDS)

    assert worker.returncode == 0, log.decode()
    statuses = {installation.request(request_id).status for request_id in completing}
    assert statuses == {RequestStatus.COMPLETED}
    assert traces_in_tables(database, MARKERS) == []
    assert traces_in_files(installation.settings.home, MARKERS) == []
    files = guide_rows("Files of `LETHE_HOME`")
    assert not {p.name for p in installation.settings.home.iterdir()} - {*files, "artifacts"}
    (installation.settings.home / "log").write_bytes(log)
    assert traces_in_files(installation.settings.home, MARKERS) == []
    if not database.is_sqlite:
        assert traces_in_pages(database, MARKERS) == set()
        assert traces_in_pages(database, ["u3"])  # The search works.
    with installation.context.uow_factory(write=False) as uow:
        held = [r for r in uow.requests.page(100, None) if r.status is RequestStatus.ON_HOLD]
    assert [r.subject.item_ids if r.subject else None for r in held] == [("i2",)]
