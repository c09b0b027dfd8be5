"""`lethe forget A B C` and `--file`: one outcome per user, and no user fails another one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from app.cli import user_ids
from app.cli.deletions import record_all, wait_for_all
from app.cli.failures import CommandError
from app.cli.installation import open_installation
from app.cli.root import application
from app.domain.errors import LedgerUnavailableError, LetheError, UnknownUserError
from app.services.forget import ForgetCommand
from app.settings import get_settings
from tests.support.command_line import document, lethe

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

USERS = ("ann", "bob", "cid")


@pytest.fixture(autouse=True)
def users(home: Path) -> None:
    del home
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.people.ensure_users(USERS)


def outcomes(ended: Result) -> list[tuple[str, str, str | None]]:
    answer = json.loads(ended.stdout)
    assert answer["failed"] == sum(item["result"] == "failed" for item in answer["items"])
    return [
        (item["user_id"], item["result"], (item["error"] or {}).get("code"))
        for item in answer["items"]
    ]


def test_one_bad_id_does_not_fail_the_others() -> None:
    earlier = document("forget", "bob")["id"]
    ended = lethe("forget", "ann", "stranger", "bob", "c\x01d", "ann", "cid", "--json")
    assert ended.exit_code == 1
    assert outcomes(ended) == [
        ("ann", "recorded", None),
        ("stranger", "failed", "unknown-user"),
        ("bob", "covered", None),
        ("c\x01d", "failed", "invalid-input"),
        ("cid", "recorded", None),
    ]
    assert json.loads(ended.stdout)["items"][2]["request"]["id"] == earlier
    assert document("requests", "list")["total"] == 3


def test_success_of_all_is_a_line_per_user_and_status_0() -> None:
    ended = lethe("forget", *USERS, "--reference", "DSR-1")
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert (ended.exit_code, [row[:2] for row in rows]) == (0, [[u, "recorded"] for u in USERS])
    assert "3 recorded, 0 covered by earlier requests, 0 failed." in ended.stderr
    listed = document("requests", "list", "--reference", "DSR-1")["items"]
    assert {row[2] for row in rows} == {request["id"] for request in listed}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ann\n\n  bob  \r\nann\ncid", ["ann", "bob", "cid"]),
        ("\ufeffann\nbob\n", ["ann", "bob"]),
        ('name,user_id\nAnn A.,ann\n\n"B, Bob",bob\n', ["ann", "bob"]),
        ("User_ID\nann\n", ["ann"]),
        ("x;user_id\n1;ann\n", ["ann"]),
        ("a,b\n", ["a,b"]),
        ("name,user_id\nAnn\nBob,bob\n", ["", "bob"]),
        ('name,user_id\r\n"B\r\nBob",bob\rx,ann', ["bob", "ann"]),
        # These texts are not the ids ann, bob and annbob: other people must not be deleted.
        ("ann\x85bob\n", ["ann\x85bob"]),
        ("ann\u2028bob\n", ["ann\u2028bob"]),
        ('user_id\n"ann\nbob"\n', ["ann\nbob"]),
    ],
)
def test_file_has_one_id_per_line_or_a_column(tmp_path: Path, text: str, ids: list[str]) -> None:
    path = tmp_path / "users.csv"
    path.write_text(text, newline="")
    assert [user for user, _, _ in outcomes(lethe("forget", "--file", str(path), "--json"))] == ids


def test_file_is_read_from_standard_input_beside_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    del monkeypatch
    ended = CliRunner().invoke(
        application, ["forget", "cid", "--file", "-", "--json"], input="ann\n"
    )
    assert [item["user_id"] for item in json.loads(ended.stdout)["items"]] == ["cid", "ann"]


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 2, "no user id"),
        (b"user_id\n", 2, "no user id"),
        (b"\xff\xfe\x00", 2, "is not UTF-8"),
        (b'user_id\n"open\n', 2, "not valid CSV"),
        (b'"user_id\nann"\nbob\n', 2, "not valid CSV"),
        # Without quotes, the value of the column would be ` bob`, and the wrong person is deleted.
        (b"name,user_id\nA, bob,cid\n", 2, "Line 2 of the CSV file has 3 values"),
    ],
)
def test_rubbish_file_is_refused_before_anything_is_recorded(
    tmp_path: Path, data: bytes, status: int, message: str
) -> None:
    path = tmp_path / "users"
    path.write_bytes(data)
    ended = lethe("forget", "ann", "--file", str(path))
    assert (ended.exit_code, message in ended.stderr) == (status, True), ended.stderr
    assert document("requests", "list")["total"] == 0


def test_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_ids, "MOST_BYTES", 2**20)
    ended = lethe("forget", "--file", "/dev/zero")
    assert (ended.exit_code, "more than 1 MiB" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [(), ("ann", "bob", "--item", "i1"), ("--file", "/dev/null", "--item", "i1")],
)
def test_bad_combinations_say_what_to_do(arguments: tuple[str, ...]) -> None:
    ended = lethe("forget", *arguments)
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)


class _Source:
    """Fails for some users, and counts the calls."""

    def __init__(self, **errors: LetheError) -> None:
        self.errors = errors
        self.called: list[str | None] = []

    def forget(self, command: ForgetCommand) -> tuple[dict[str, Any], bool]:
        self.called.append(command.user_id)
        if command.user_id in self.errors:
            raise self.errors[command.user_id]
        return {"id": f"req_{command.user_id}", "status": "scheduled"}, True


def commands(*users: str) -> list[ForgetCommand]:
    return [ForgetCommand.of(user, (), None) for user in users]


@pytest.mark.parametrize("outage", [LedgerUnavailableError(), CommandError("No service answers")])
def test_no_further_call_after_an_outage(outage: LetheError) -> None:
    source = _Source(bob=UnknownUserError(), cid=outage)
    recorded = record_all(source, commands("ann", "bob", "cid", "dan", "eve"))  # type: ignore[arg-type]
    assert source.called == ["ann", "bob", "cid"]
    codes = [None if each.error is None else each.error.code for each in recorded]
    assert codes == [None, "unknown-user", outage.code, "not-tried", "not-tried"]


def test_failed_wait_fails_one_user_only() -> None:
    recorded = record_all(_Source(bob=UnknownUserError()), commands("ann", "bob", "cid"))  # type: ignore[arg-type]

    def wait(request: dict[str, Any]) -> dict[str, Any]:
        if request["id"] == "req_ann":
            raise CommandError("The request req_ann is dead.")
        return request | {"status": "completed"}

    waited = wait_for_all(recorded, wait)
    assert [each.result for each in waited] == ["failed", "failed", "recorded"]
    assert [each.request and each.request["status"] for each in waited] == [
        "scheduled",
        None,
        "completed",
    ]


def test_wait_completes_several_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_CANCEL_WINDOW", "0")
    monkeypatch.setenv("LETHE_BATCH_SECONDS", "0")
    answer = document("forget", "ann", "bob", "--wait")
    assert [item["request"]["status"] for item in answer["items"]] == ["completed", "completed"]
