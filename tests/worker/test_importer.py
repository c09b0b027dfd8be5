"""Import files into a real database, and check the rows, the events and the summary."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.domain.catalog import ItemOrigin
from app.domain.errors import InvalidInputError
from app.domain.id_rules import IdRule
from app.services.forget import ForgetCommand, request_forget
from app.services.items import store_items
from app.settings import Settings
from models.datasets.options import ReadOptions
from worker.importer import run_import
from worker.stages.snapshot import take_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory

TIME = 978_300_760


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    directory = tmp_path / "ml"
    directory.mkdir()
    (directory / "movies.csv").write_text(
        "movieId,title,genres\n20,Heat (1995),Action|Crime\n3,Emma (1996),Comedy\n7,None (1990),\n"
    )
    (directory / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n"
        "ann,20,4.5,10\nbob,3,2,20\nann,3,?,30\nbob,20,1,5\nbob,3,3,30\nbob,7\n"
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
    assert (summary["users"], summary["items"], summary["interactions"]) == (2, 3, 3)
    assert (summary["lines"], summary["accepted"], summary["described"]) == (9, 3, 3)
    assert (summary["duplicates"], summary["skipped"]) == (1, {})
    assert {(r["reason"], r["count"], *r["examples"]) for r in summary["rejected"]} == {
        ("the rating is not a number", 1, "ratings.csv:4"),
        ("the line does not have as many fields as the header", 1, "ratings.csv:7"),
    }
    assert [event["stage"] for event in emitted] == sorted(
        (event["stage"] for event in emitted), key=["read", "store", "done"].index
    )
    progress = [(event["done"], event["total"]) for event in emitted if event["stage"] == "store"]
    assert progress[0] == (0, 8)
    assert progress[-1] == (8, 8)
    assert emitted[-1] == {"stage": "done", "summary": summary}
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
    assert (summary["users"], summary["interactions"]) == (1, 1)
    assert summary["skipped"] == {"forgotten": 2, "forgotten_users": 1}


def test_unreadable_data_set_stores_nothing(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    emitted: list[dict[str, Any]] = []
    with pytest.raises(InvalidInputError, match="does not exist"):
        run_import(tmp_path / "nothing", "auto", uow_factory, pseudonyms, emitted.append)
    assert emitted == []
    with uow_factory(write=False) as uow:
        assert uow.people.counts()["items"] == 0


HEADER = "user_id,item_id,rating,timestamp,title,genres\n"


@pytest.fixture
def import_csv(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> Callable[[str], dict[str, Any]]:
    """Return a function that imports a CSV file with these lines."""

    def run(lines: str) -> dict[str, Any]:
        path = tmp_path / "rows.csv"
        path.write_text(HEADER + lines)
        return run_import(path, "csv", uow_factory, pseudonyms, lambda _: None)

    return run


def described(uow_factory: UnitOfWorkFactory) -> dict[str, tuple[str, Any, ItemOrigin | None]]:
    with uow_factory(write=False) as uow:
        return {item.id: (item.title, item.attributes, item.origin) for item in uow.people.items()}


def test_ratings_change_no_item_of_a_catalog(
    movielens: Path,
    uow_factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    import_csv: Callable[[str], dict[str, Any]],
) -> None:
    run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    before = described(uow_factory)
    assert {origin for _, _, origin in before.values()} == {ItemOrigin.CATALOG}
    import_csv("ann,20,4,1,,\nann,3,4,1,Other,War\nbob,3,4,1,Other,War\n")
    assert described(uow_factory) == before


def test_ratings_without_texts_erase_no_text(
    uow_factory: UnitOfWorkFactory, import_csv: Callable[[str], dict[str, Any]]
) -> None:
    import_csv("ann,3,4,1,Emma,Drama\nbob,3,4,1,Emma,Drama\n")
    import_csv("ann,3,4,1,,\n")
    emma = ("Emma", {"genre": ["Drama"]}, ItemOrigin.RATINGS)
    assert described(uow_factory) == {"3": emma}


def test_ratings_without_texts_erase_no_text_of_unknown_origin(
    uow_factory: UnitOfWorkFactory,
    database: Database,
    import_csv: Callable[[str], dict[str, Any]],
) -> None:
    import_csv("ann,3,4,1,Emma,Drama\nbob,3,4,1,Emma,Drama\nann,7,4,1,,\n")
    with database.write.begin() as connection:
        connection.execute(text("UPDATE items SET origin = NULL"))
    import_csv("ann,3,4,1,,\nann,7,4,1,,\n")
    assert described(uow_factory) == {
        "3": ("Emma", {"genre": ["Drama"]}, None),
        "7": ("7", {}, None),
    }


def test_catalog_replaces_texts_and_origin_of_rated_items(
    movielens: Path,
    uow_factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    import_csv: Callable[[str], dict[str, Any]],
) -> None:
    import_csv("ann,3,4,1,Emma,Drama\nbob,3,4,1,Emma,Drama\nann,9,4,1,,\n")
    run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    with uow_factory() as uow:
        store_items(uow, pseudonyms, [("9", "Nine", {})])
    items = described(uow_factory)
    assert items["3"] == ("Emma (1996)", {"genre": ["Comedy"]}, ItemOrigin.CATALOG)
    assert items["9"] == ("Nine", {}, ItemOrigin.CATALOG)


def test_catalog_file_without_texts_erases_no_text_but_the_api_does(
    movielens: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with uow_factory() as uow:
        store_items(uow, pseudonyms, [("7", "Seven", {"genre": ["Crime"]}), ("8", "Eight", {})])
    movies = movielens / "movies.csv"
    movies.write_text(movies.read_text() + "8,,\n")
    run_import(movielens, "auto", uow_factory, pseudonyms, lambda _: None)
    items = described(uow_factory)
    assert items["7"] == ("None (1990)", {"genre": ["Crime"]}, ItemOrigin.CATALOG)
    assert items["8"] == ("Eight", {}, ItemOrigin.CATALOG)
    with uow_factory() as uow:
        store_items(uow, pseudonyms, [("7", "Seven", {})])
    assert described(uow_factory)["7"] == ("Seven", {}, ItemOrigin.CATALOG)


def test_one_row_per_item_gives_titles_that_leave_with_the_ratings(
    uow_factory: UnitOfWorkFactory, import_csv: Callable[[str], dict[str, Any]]
) -> None:
    summary = import_csv("".join(f"u{n},{n},4,{TIME},Title {n},\n" for n in range(30)))
    expected = {str(n): (f"Title {n}", {}, ItemOrigin.RATER) for n in range(30)}
    assert described(uow_factory) == expected
    [note] = summary["notes"]
    assert "the title of 30 items is from rows of one user each" in note
    assert "import the descriptions from a catalog file or with POST /items" in note


def once_items_are_stored(action: Callable[[], object]) -> Callable[[dict[str, Any]], None]:
    """Return a callback of an import that runs the action once, when items have been stored."""
    is_done = False

    def callback(event: dict[str, Any]) -> None:
        nonlocal is_done
        if event["stage"] == "store" and event["done"] and not is_done:
            is_done = True
            action()

    return callback


@pytest.mark.parametrize("stage", ["before", "store"])
def test_text_of_a_user_who_is_forgotten_meanwhile_is_not_stored(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, stage: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "ann,known,4,1,,\nbob,known,4,1,,\n")
    run_import(path, "csv", uow_factory, pseudonyms, lambda _: None)
    path.write_text(HEADER + f"ann,new,4,{TIME},Max loved it,\nbob,new,4,{TIME},,\n")

    def forget() -> None:
        with uow_factory() as uow:
            request_forget(uow, pseudonyms, Settings(), ForgetCommand(user_id="ann"))

    if stage == "before":
        forget()
    callback = once_items_are_stored(forget) if stage == "store" else lambda _: None
    run_import(path, "csv", uow_factory, pseudonyms, callback)
    assert described(uow_factory)["new"] == ("new", {}, ItemOrigin.RATINGS)


def test_item_of_a_user_forgotten_during_the_import_is_not_in_the_catalog(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "ann,known,4,1,,\nbob,known,4,1,,\n")
    run_import(path, "csv", uow_factory, pseudonyms, lambda _: None)
    path.write_text(HEADER + "ann,playlist-of-ann,4,1,,\nbob,mine,4,1,,\n")

    def forget() -> None:
        with uow_factory() as uow:
            assert uow.people.item("playlist-of-ann") is not None
            request_forget(uow, pseudonyms, Settings(), ForgetCommand(user_id="ann"))

    summary = run_import(path, "csv", uow_factory, pseudonyms, once_items_are_stored(forget))
    assert summary["skipped"]["forgotten"]
    with uow_factory(write=False) as uow:
        assert uow.people.known_items(["playlist-of-ann", "mine", "known"]) == {"mine", "known"}


def test_spellings_in_a_file_are_one_person_and_joiners_are_kept(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "ratings.csv"
    lines = ["Ju\u0308rgen,a,4,10", " J\u00fcrgen ,b,4,20", "\u0645\u06cc\u200c\u062e,a,3,30"]
    path.write_text("\n".join(["user,item,rating,timestamp", *lines]), encoding="utf-8")
    summary = run_import(path, "auto", uow_factory, pseudonyms, lambda _: None)
    assert (summary["rejected"], summary["skipped"], summary["invalid"]) == ([], {}, {})
    with uow_factory(write=False) as uow:
        users = {user.id: uow.people.count_of(user.id) for user in uow.people.users()}
    assert users == {"J\u00fcrgen": 2, "\u0645\u06cc\u200c\u062e": 1}


def test_row_with_a_bidirectional_control_names_itself(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "ratings.csv"
    lines = [
        f"{user},{item},4,10,{title}"
        for user in ("ann", "bob")
        for item, title in (("a", "Abc\u202edef"), ("b", "Good Film"))
    ]
    rows = "\n".join(["user,item,rating,timestamp,title", *lines])
    path.write_text(rows, encoding="utf-8")
    summary = run_import(path, "auto", uow_factory, pseudonyms, lambda _: None)
    assert summary["rejected"] == [
        {
            "reason": "a text has a bidirectional control",
            "count": 2,
            "examples": ["ratings.csv:2", "ratings.csv:4"],
        }
    ]
    assert (summary["skipped"], summary["interactions"]) == ({}, 2)


def test_older_ratings_replace_no_later_ones_and_are_counted(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    for name, rows in (("new", "a,1,0.5,1600000000\n"), ("old", "a,1,3,851866703\nb,1,3,5\n")):
        path = tmp_path / f"{name}.csv"
        path.write_text("user_id,item_id,rating,timestamp\n" + rows)
        summary = run_import(path, "auto", uow_factory, pseudonyms, lambda _: None)
    assert (summary["skipped"], summary["interactions"]) == ({"older": 1}, 1)
    with uow_factory(write=False) as uow:
        stored = [(r.user_id, r.rating, r.timestamp) for r in uow.people.interactions()]
    assert stored == [("a", 0.5, 1_600_000_000), ("b", 3, 5)]


def test_choice_of_times_is_recorded_for_the_manifest(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "untimed.csv"
    path.write_text("user_id,item_id,rating\n" + "".join(f"{n // 3},{n},4\n" for n in range(9)))
    assert take_snapshot(uow_factory, pseudonyms, job_id="").drawn_times is None
    options = ReadOptions.parse(no_timestamps="random")
    run_import(path, "auto", uow_factory, pseudonyms, lambda _: None, options)
    assert take_snapshot(uow_factory, pseudonyms, job_id="").drawn_times == "random"


def test_file_of_another_scale_stores_nothing(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "ten.csv"
    path.write_text("user_id,item_id,rating,timestamp\na,1,9,1600000000\nb,2,4,1600000000\n")
    with pytest.raises(InvalidInputError, match="nothing was stored"):
        run_import(path, "auto", uow_factory, pseudonyms, lambda _: None)
    with uow_factory(write=False) as uow:
        assert (list(uow.people.interactions()), uow.people.items()) == ([], [])
    options = ReadOptions.parse(scale="1:10")
    summary = run_import(path, "auto", uow_factory, pseudonyms, lambda _: None, options)
    assert summary["interactions"] == 2


def test_two_spellings_of_one_user_confirm_no_text(
    tmp_path: Path, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEADER}Ann@x.org,B1,5,10,Ann's song,\nann@x.org,B1,5,20,Ann's song,\n")
    by_email = replace(pseudonyms, id_rule=IdRule.EMAIL)
    run_import(path, "csv", uow_factory, by_email, lambda _: None)
    assert described(uow_factory)["B1"] == ("Ann's song", {}, ItemOrigin.RATER)
