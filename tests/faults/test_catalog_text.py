"""Import a person's rows with texts and items of the person's own, delete the person, and search.

Nothing that only the person's rows named may stay in the catalog, the database or its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.catalog import ItemOrigin
from app.domain.errors import UnknownItemError
from app.domain.requests import RequestStatus
from app.services.forget import ForgetCommand, hold_forget, request_forget
from app.services.items import read_item, store_items
from app.services.suppression import record_consent
from tests.faults.conftest import PERSON
from worker.importer import run_import
from worker.loop import run_once

if TYPE_CHECKING:
    from typing import Any

    from tests.faults.conftest import Installation

#: An item and a title that must not outlive the person; `check_forgotten` searches for PERSON.
PLAYLIST = f"playlist-of-{PERSON}"
HEADING = f"The son of {PERSON} loved it"
HEADER = "user_id,item_id,rating,timestamp,title\n"


def import_rows(installation: Installation, *lines: str) -> dict[str, Any]:
    path = installation.settings.home / "rows.csv"
    path.write_text(HEADER + "".join(line + "\n" for line in lines))
    context = installation.context
    summary = run_import(path, "csv", context.uow_factory, context.pseudonyms, lambda _: None)
    path.unlink()
    assert summary["rejected"] == []
    return summary


def forget_all(installation: Installation, *user_ids: str) -> list[str]:
    """Delete these users in one batch and return the ids of the requests."""
    request_ids = [installation.forget(user_id) for user_id in user_ids]
    assert run_once(installation.context)
    for request_id in request_ids:
        assert installation.request(request_id).status is RequestStatus.COMPLETED
    return request_ids


def item_ids(installation: Installation) -> set[str]:
    with installation.context.uow_factory(write=False) as uow:
        return {item.id for item in uow.people.items() if not item.retired}


def metrics_of(installation: Installation, request_id: str) -> dict[str, Any]:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.get(uow.requests.get(request_id).job_id or "").metrics


def kept_places(installation: Installation, request_id: str) -> list[str]:
    """Return what the certificate says is not covered."""
    places: list[str] = installation.certificate(request_id)["not_covered"]
    return places


def test_title_that_another_item_has_is_named_in_the_certificate(
    installation: Installation,
) -> None:
    context = installation.context
    with context.uow_factory() as uow:
        items = [("A", "Heat", {}), ("B", "Heat", {}), ("C", "Emma", {})]
        store_items(uow, context.pseudonyms, items)
    for item_id, is_shared in (("A", True), ("C", False)):
        with context.uow_factory() as uow:
            command = ForgetCommand(item_id=item_id)
            request, _ = request_forget(uow, context.pseudonyms, context.settings, command)
        assert run_once(context)
        words = [
            place for place in kept_places(installation, request.id) if "the words of" in place
        ]
        assert bool(words) == is_shared
        assert "Heat" not in str(words)


def clear_origins(installation: Installation) -> None:
    """Make all items those of an installation that recorded no origins."""
    with installation.context.database.write.begin() as connection:
        connection.execute(text("UPDATE items SET origin = NULL"))


def test_review_heading_of_a_forgotten_person_is_in_no_row_and_no_file(
    empty_installation: Installation,
) -> None:
    summary = import_rows(empty_installation, f"{PERSON},B1,5,1,{HEADING}", "u1,B1,2,2,meh")
    assert any("the column title was not taken" in note for note in summary["notes"])
    empty_installation.train()
    request_id = empty_installation.forget()
    assert run_once(empty_installation.context)
    empty_installation.check_forgotten(request_id)
    assert "B1" in item_ids(empty_installation)


def titles(installation: Installation) -> dict[str, tuple[str, ItemOrigin | None]]:
    with installation.context.uow_factory(write=False) as uow:
        return {item.id: (item.title, item.origin) for item in uow.people.items()}


def test_title_of_the_only_rater_is_deleted_with_the_rater(
    empty_installation: Installation,
) -> None:
    installation = empty_installation
    import_rows(installation, f"{PERSON},B1,5,1,{HEADING}", "u1,B2,5,1,Emma", "u2,B3,5,1,Emma")
    import_rows(installation, "u1,B1,4,2,", "u2,B2,4,2,")
    assert titles(installation)["B1"] == (HEADING, ItemOrigin.RATER)
    installation.train()
    # No release holds the title, so that only the database must lose it.
    for path in filter(Path.is_file, Path(installation.settings.artifacts_root).rglob("*")):
        assert HEADING.encode() not in path.read_bytes(), path
    request_id = installation.forget()
    assert run_once(installation.context)
    installation.check_forgotten(request_id)
    assert titles(installation)["B1"] == ("B1", ItemOrigin.RATINGS)
    assert titles(installation)["B2"] == ("Emma", ItemOrigin.RATER)


@pytest.mark.parametrize("stored", [["u1,B1,4,2,"], [f"{PERSON},B1,5,1,", "u1,B1,4,2,"]])
def test_forgotten_rater_describes_nothing(installation: Installation, stored: list[str]) -> None:
    """The import is later than the request, and perhaps earlier than the deletion of the rating."""
    import_rows(installation, *stored)
    request_id = installation.forget()
    import_rows(installation, f"{PERSON},B1,5,1,{HEADING}", "u2,B1,4,2,")
    assert titles(installation)["B1"] == ("B1", ItemOrigin.RATINGS)
    assert run_once(installation.context)
    installation.check_forgotten(request_id)


def test_rater_who_is_forgotten_during_the_import_describes_nothing(
    installation: Installation,
) -> None:
    context = installation.context
    path = installation.settings.home / "rows.csv"
    path.write_text(f"{HEADER}{PERSON},B1,5,1,{HEADING}\nu1,B1,4,2,\n")

    def forget_before_the_last_row(event: dict[str, Any]) -> None:
        if event["stage"] == "store" and event["done"] == event["total"] - 1:
            installation.forget()

    run_import(path, "csv", context.uow_factory, context.pseudonyms, forget_before_the_last_row)
    path.unlink()
    with context.uow_factory(write=False) as uow:
        assert uow.requests.open_of_user(PERSON)
    assert titles(installation)["B1"] == ("B1", ItemOrigin.RATINGS)


def test_text_of_two_forgotten_raters_is_not_stored(installation: Installation) -> None:
    forget_all(installation, PERSON, "u0")
    import_rows(installation, f"{PERSON},B1,5,1,{HEADING}", f"u0,B1,5,1,{HEADING}", "u2,B1,4,2,")
    assert titles(installation)["B1"] == ("B1", ItemOrigin.RATINGS)


def test_forgotten_rater_confirms_no_text_of_another(installation: Installation) -> None:
    forget_all(installation, PERSON)
    import_rows(installation, f"{PERSON},B1,5,1,Ours", "u1,B1,5,1,Ours", "u2,B1,4,2,")
    assert titles(installation)["B1"] == ("Ours", ItemOrigin.RATER)


def test_single_rating_takes_its_text_along(installation: Installation) -> None:
    import_rows(installation, f"{PERSON},B1,5,1,{HEADING}", "u1,B1,4,2,")
    installation.forget(PERSON, "B1")
    assert run_once(installation.context)
    assert titles(installation)["B1"] == ("B1", ItemOrigin.RATINGS)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Another user's text replaces nothing, two users' text replaces the text of one.
        (["u1,B1,5,1,Emma"], ["u2,B1,5,1,Other"], ("Emma", ItemOrigin.RATER)),
        (["u1,B1,5,1,Emma"], ["u2,B1,5,1,Ours", "u3,B1,5,1,Ours"], ("Ours", ItemOrigin.RATINGS)),
        (["u1,B1,5,1,Emma"], ["u2,B1,5,1,"], ("Emma", ItemOrigin.RATER)),
        (["u1,B1,5,1,"], ["u2,B1,5,1,Emma"], ("Emma", ItemOrigin.RATER)),
        (["u1,B1,5,1,Ours", "u2,B1,5,1,Ours"], ["u3,B1,5,1,Emma"], ("Ours", ItemOrigin.RATINGS)),
    ],
)
def test_text_of_one_user_never_replaces_another(
    installation: Installation,
    first: list[str],
    second: list[str],
    expected: tuple[str, ItemOrigin],
) -> None:
    import_rows(installation, *first)
    import_rows(installation, *second)
    assert titles(installation)["B1"] == expected


def test_item_that_only_the_forgotten_person_rated_is_retired(
    empty_installation: Installation,
) -> None:
    import_rows(empty_installation, f"{PERSON},{PLAYLIST},5,1,", "u1,B1,4,2,", f"{PERSON},B1,4,2,")
    empty_installation.train()
    with empty_installation.context.uow_factory(write=False) as uow:
        item_index = read_item(uow, PLAYLIST).item_index
    request_id = empty_installation.forget()
    assert run_once(empty_installation.context)
    empty_installation.check_forgotten(request_id)
    with empty_installation.context.uow_factory(write=False) as uow:
        with pytest.raises(UnknownItemError):
            read_item(uow, PLAYLIST)
        [retired] = [item for item in uow.people.items() if item.retired]
        assert (retired.item_index, retired.title, retired.attributes) == (item_index, "", {})
        assert read_item(uow, "B1").origin is ItemOrigin.RATINGS
    metrics = metrics_of(empty_installation, request_id)
    assert (metrics["catalog_entries_retired"], metrics["catalog_entries_kept"]) == (1, 0)


def test_item_is_retired_with_the_only_interaction_that_names_it(
    installation: Installation,
) -> None:
    import_rows(installation, f"{PERSON},{PLAYLIST},5,1,", f"{PERSON},other,5,1,")
    installation.forget(PERSON, PLAYLIST)
    assert run_once(installation.context)
    assert {PLAYLIST, "other"} & item_ids(installation) == {"other"}


def test_item_of_two_raters_forgotten_in_one_batch_is_retired(installation: Installation) -> None:
    import_rows(installation, f"u0,{PLAYLIST},5,1,Ours", f"{PERSON},{PLAYLIST},5,1,Ours")
    request_ids = forget_all(installation, "u0", PERSON)
    assert PLAYLIST not in item_ids(installation)
    assert metrics_of(installation, request_ids[0])["catalog_entries_retired"] == 1


def test_item_of_another_rater_stays_until_the_last_is_forgotten(
    installation: Installation,
) -> None:
    import_rows(installation, "u0,B1,5,1,Ours", f"{PERSON},B1,5,1,Ours")
    forget_all(installation, PERSON)
    assert "B1" in item_ids(installation)
    forget_all(installation, "u0")
    assert "B1" not in item_ids(installation)


def test_item_of_a_catalog_stays_when_its_only_rater_is_forgotten(
    installation: Installation,
) -> None:
    import_rows(installation, f"{PERSON},B1,5,1,")
    with installation.context.uow_factory() as uow:
        store_items(uow, installation.context.pseudonyms, [("B1", "Heat", {})])
    import_rows(installation, f"{PERSON},B1,5,1,")  # Ratings do not change the origin.
    [request_id] = forget_all(installation, PERSON)
    with installation.context.uow_factory(write=False) as uow:
        item = read_item(uow, "B1")
    assert (item.title, item.origin) == ("Heat", ItemOrigin.CATALOG)
    assert metrics_of(installation, request_id)["catalog_entries_kept"] == 0


def test_item_of_unknown_origin_is_retired_without_a_description_and_counted_with_one(
    installation: Installation,
) -> None:
    with installation.context.uow_factory() as uow:
        store_items(uow, installation.context.pseudonyms, [("named", "Heat", {})])
        store_items(uow, installation.context.pseudonyms, [("genre", "genre", {"genre": ["A"]})])
    import_rows(
        installation, f"{PERSON},{PLAYLIST},5,1,", f"{PERSON},named,5,1,", f"{PERSON},genre,5,1,"
    )
    clear_origins(installation)
    [request_id] = forget_all(installation, PERSON)
    assert {PLAYLIST, "named", "genre"} & item_ids(installation) == {"named", "genre"}
    metrics = metrics_of(installation, request_id)
    # The user also rated four described items of the installation.
    assert (metrics["catalog_entries_retired"], metrics["catalog_entries_kept"]) == (1, 6)
    assert any("of 6 catalog entries" in place for place in kept_places(installation, request_id))


def test_held_request_for_an_orphaned_item_completes_with_the_item(
    installation: Installation,
) -> None:
    import_rows(installation, f"{PERSON},{PLAYLIST},5,1,")
    item_request = installation.forget_item(PLAYLIST)
    with installation.context.uow_factory() as uow:
        hold_forget(uow, item_request)
    forget_all(installation, PERSON)
    request = installation.request(item_request)
    assert (request.status, request.subject) == (RequestStatus.COMPLETED, None)
    assert installation.certificate(item_request)["request_id"] == item_request


def test_text_of_unknown_origin_is_listed_although_others_rated_the_item(
    installation: Installation,
) -> None:
    with installation.context.uow_factory() as uow:
        store_items(uow, installation.context.pseudonyms, [("named", "Heat", {})])
    import_rows(installation, f"{PERSON},named,5,1,", "u8,named,4,2,")
    clear_origins(installation)
    [request_id] = forget_all(installation, PERSON)
    assert any("of 5 catalog entries" in place for place in kept_places(installation, request_id))


def test_repeated_import_does_not_bring_back_the_item_of_a_forgotten_person(
    installation: Installation,
) -> None:
    lines = (f"{PERSON},{PLAYLIST},5,1,", "u1,B1,4,2,")
    import_rows(installation, *lines)
    request_id = installation.forget()
    import_rows(installation, *lines)
    assert run_once(installation.context)
    installation.check_forgotten(request_id)
    import_rows(installation, *lines)
    installation.check_forgotten(request_id)
    assert "B1" in item_ids(installation)


def test_consent_allows_the_item_again_under_a_new_index(installation: Installation) -> None:
    import_rows(installation, f"{PERSON},{PLAYLIST},5,1,")
    forget_all(installation, PERSON)
    with installation.context.uow_factory() as uow:
        record_consent(uow, installation.context.pseudonyms, PERSON)
    import_rows(installation, f"{PERSON},{PLAYLIST},5,1,")
    with installation.context.uow_factory(write=False) as uow:
        item = read_item(uow, PLAYLIST)
        indices = [stored.item_index for stored in uow.people.items()]
    assert (item.origin, item.item_index) == (ItemOrigin.RATINGS, max(indices))
    assert len(set(indices)) == len(indices)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["delete_rows", "shred", "unlinked", "certify"])
def test_killed_worker_leaves_no_orphaned_item(installation: Installation, point: str) -> None:
    import_rows(installation, f"{PERSON},{PLAYLIST},5,1,", f"{PERSON},B1,5,1,{HEADING}")
    request_id = installation.forget()
    installation.kill(installation.start_and_stop_at(point))
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    metrics = metrics_of(installation, request_id)
    assert (metrics["catalog_entries_retired"], metrics["catalog_entries_kept"]) == (2, 0)
