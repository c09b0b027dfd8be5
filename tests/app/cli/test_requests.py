"""`lethe requests`: the lists and changes of deletion requests, as the API has them."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.installation import open_installation
from app.settings import get_settings
from tests.support.command_line import document, lethe

USERS = ("ann", "bob", "cid")


@pytest.fixture
def ids() -> dict[str, str]:
    """Record a deletion request for each of three users; return the ids of the requests."""
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.people.ensure_users(USERS)
    options = ("--requested-by", "agent", "--reason", "legal", "--reference", "DSR-1")
    requests = {
        "ann": document("forget", "ann", *options),
        "bob": document("forget", "bob"),
        "cid": document("forget", "cid"),
    }
    return {user: request["id"] for user, request in requests.items()}


def listed(*options: str) -> list[str]:
    page: dict[str, Any] = document("requests", "list", *options)
    assert page["total"] == len(page["items"])
    return [request["id"] for request in page["items"]]


def test_filters_are_those_of_the_api(ids: dict[str, str]) -> None:
    newest_first = [ids["cid"], ids["bob"], ids["ann"]]
    assert listed() == newest_first
    assert document("requests", "hold", ids["bob"])["status"] == "on_hold"
    for options, users in (
        (("--status", "on_hold"), ["bob"]),
        (("--status", "on_hold", "--status", "scheduled"), ["cid", "bob", "ann"]),
        (("--assurance", "exact"), []),
        (("--overdue",), []),
        (("--not-overdue",), ["cid", "bob", "ann"]),
        (("--due-before", "2020-01-01T00:00:00Z"), []),
        (("--created-after", "2020-01-01T00:00:00+01:00"), ["cid", "bob", "ann"]),
        (("--created-before", "2020-01-01T00:00:00Z"), []),
        (("--user", " cid"), ["cid"]),
        (("--requested-by", "agent"), ["ann"]),
        (("--reference", "DSR-1"), ["ann"]),
    ):
        assert listed(*options) == [ids[user] for user in users], options


def test_pages_and_total(ids: dict[str, str]) -> None:
    page = document("requests", "list", "--limit", "2")
    assert (len(page["items"]), page["total"]) == (2, 3)
    rest = document("requests", "list", "--limit", "2", "--cursor", page["next_cursor"])
    assert [request["id"] for request in rest["items"]] == [ids["ann"]]
    assert rest["next_cursor"] is None
    listed_text = lethe("requests", "list", "--limit", "2")
    note = f"2 of 3 requests. The next page: --cursor {page['next_cursor']}"
    assert note in listed_text.stderr
    assert ids["cid"] in listed_text.stdout


def test_request_is_shown_held_released_and_cancelled(ids: dict[str, str]) -> None:
    request_id = ids["ann"]
    shown = document("requests", "show", request_id)
    assert (shown["requested_by"], shown["reason"], shown["reference"]) == (
        "agent",
        "legal",
        "DSR-1",
    )
    text = lethe("requests", "show", request_id).stdout
    assert all(word in text for word in (request_id, "DSR-1", "scheduled", "exact_due_at"))
    assert f"{request_id} is on_hold" in lethe("requests", "hold", request_id).stdout
    assert document("requests", "release", request_id)["status"] == "scheduled"
    assert document("requests", "cancel", request_id)["status"] == "cancelled"
    again = lethe("requests", "cancel", request_id)
    assert (again.exit_code, "only in the status `scheduled`" in again.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("show", "req_0"), 1, "does not exist"),
        (("list", "--created-after", "2026-11-30T12:00:00"), 2, "with a time zone"),
        (("list", "--due-before", "tomorrow"), 2, "with a time zone"),
        (("list", "--limit", "0"), 2, "between 1 and 200"),
        (("list", "--cursor", "x"), 2, "next_cursor"),
        (("list", "--status", "done"), 2, "done"),
        (("list", "--reference", "jane@example.com"), 2, "no e-mail address"),
        (("list", "--user", "a\x00b"), 2, "control characters"),
    ],
)
def test_bad_input_says_what_to_do(arguments: tuple[str, ...], status: int, text: str) -> None:
    ended = lethe("requests", *arguments)
    assert (ended.exit_code, text in ended.output) == (status, True), ended.output
    assert "jane" not in ended.output


def test_list_without_requests() -> None:
    assert "0 of 0 requests." in lethe("requests", "list").stderr
