"""Import files into a real database, and check the rows, the events and the summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import InvalidInputError
from app.services.forget import ForgetCommand, request_forget
from app.settings import Settings
from worker.importer import run_import

if TYPE_CHECKING:
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    directory = tmp_path / "ml"
    directory.mkdir()
    (directory / "movies.csv").write_text(
        "movieId,title,genres\n20,Heat (1995),Action|Crime\n3,Emma (1996),Comedy\n7,None (1990),\n"
    )
    (directory / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n"
        "ann,20,4.5,10\nbob,3,2,20\nann,3,9,30\nbob,20,1,5\nbob,3,3,30\nbob,7\n"
    )
    return directory


def test_valid_rows_are_stored_and_others_counted(
    movielens: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    emitted: list[dict[str, Any]] = []
    summary = run_import(movielens, "auto", uow_factory, pseudonyms, emitted.append)
    with uow_factory(write=False) as uow:
        assert [(i.id, i.title, i.attributes, i.item_index) for i in uow.people.items()] == [
            ("20", "Heat (1995)", {"genre": ["Action", "Crime"]}, 0),
            ("3", "Emma (1996)", {"genre": ["Comedy"]}, 1),
            ("7", "None (1990)", {}, 2),
        ]
        stored = [(r.user_id, r.item_id, r.rating, r.timestamp) for r in uow.people.interactions()]
    assert stored == [("ann", "20", 4.5, 10), ("bob", "20", 1.0, 5), ("bob", "3", 3.0, 30)]
    assert (summary.users, summary.items, summary.interactions) == (2, 3, 3)
    assert (summary.lines, summary.accepted, summary.described) == (9, 3, 3)
    assert (summary.duplicates, summary.skipped) == (1, {})
    assert {(r.reason, r.count, r.examples) for r in summary.rejected} == {
        ("the rating is not within 0.5 to 5 stars", 1, ("ratings.csv:4",)),
        ("the line does not have 4 fields", 1, ("ratings.csv:7",)),
    }
    assert [event["stage"] for event in emitted] == sorted(
        (event["stage"] for event in emitted), key=["read", "store", "done"].index
    )
    progress = [(event["done"], event["total"]) for event in emitted if event["stage"] == "store"]
    assert progress[0] == (0, 8)
    assert progress[-1] == (8, 8)
    assert emitted[-1] == {"stage": "done", "summary": asdict(summary)}
    assert "ann" not in json.dumps(emitted)


def test_repeated_import_changes_nothing(
    movielens: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    first = run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    with uow_factory(write=False) as uow:
        before = (uow.people.items(), list(uow.people.interactions()))
    assert run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None) == first
    with uow_factory(write=False) as uow:
        assert (uow.people.items(), list(uow.people.interactions())) == before


def test_forgotten_user_is_not_imported_again(
    movielens: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    with uow_factory() as uow:
        request_forget(
            uow,
            pseudonyms,
            Settings(),
            ForgetCommand(user_id="bob"),
        )
        uow.people.delete_user("bob")
    summary = run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    with uow_factory(write=False) as uow:
        assert uow.people.user("bob") is None
        assert {row.user_id for row in uow.people.interactions()} == {"ann"}
    assert (summary.users, summary.interactions) == (1, 1)
    # The user bob and two ratings.
    assert summary.skipped == {"forgotten": 3}


def test_unreadable_data_set_stores_nothing(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    emitted: list[dict[str, Any]] = []
    with pytest.raises(InvalidInputError, match="does not exist"):
        run_import(tmp_path / "nothing", "auto", uow_factory, pseudonyms, emitted.append)
    assert emitted == []
    with uow_factory(write=False) as uow:
        assert uow.people.counts()["items"] == 0
