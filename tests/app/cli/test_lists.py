"""Lists in a pipe and in a terminal: ids are whole, and each row of a pipe is one line."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from app.cli.installation import open_installation
from app.cli.screen import Screen, facts, table
from app.domain.jobs import JobKind
from app.services.jobs import start_training
from app.services.secrets import load_signer
from app.services.signing_keys import register
from app.settings import get_settings
from tests.support.command_line import document, lethe

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [("req_" + "a" * 32, "scheduled", "a [bold] title"), ("req_" + "b" * 32, "done", "x\ty")]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")


@pytest.mark.usefixtures("narrow")
def test_requests_in_a_pipe_are_one_line_each() -> None:
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.people.ensure_users(["ann", "bob"])
    ids = [
        document("forget", user, "--reference", f"ticket of {user}")["id"]
        for user in ["ann", "bob"]
    ]
    ended = lethe("requests", "list")
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert [row[0] for row in rows] == ids[::-1]
    assert [(row[1], row[2], row[5]) for row in rows] == [
        ("scheduled", "none", "ticket of bob"),
        ("scheduled", "none", "ticket of ann"),
    ]
    assert ended.stderr == "2 of 2 requests.\n"


@pytest.mark.usefixtures("narrow")
def test_jobs_and_keys_in_a_pipe_are_one_line_each(home: Path) -> None:
    data = home.parent / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nbob,i1,5,12\n")
    document("import", str(data))
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        job_id = start_training(uow, JobKind.RENEW, {"reason": "drift"}).id
        key_id = register(uow, load_signer(get_settings())).key_id
    (job,) = lethe("jobs").stdout.splitlines()
    assert job.split("\t")[:3] == [job_id, "renew", "queued"]
    (key,) = lethe("keys").stdout.splitlines()
    assert key.split("\t")[0] == key_id
    shown = dict(
        line.split("\t") for line in lethe("jobs", job_id).stdout.splitlines() if "\t" in line
    )
    assert (shown["id"], shown["reason"]) == (job_id, "drift")


def printed(width: int, *, is_terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=is_terminal, color_system=None)
    rows = table("request", "status", "reference", rows=ROWS, whole=(0,))
    Screen(console, as_json=False).listing({}, rows)
    return output.getvalue()


@pytest.mark.parametrize("width", [20, 200])
def test_rows_in_a_pipe_are_lines_with_tabs(width: int) -> None:
    assert printed(width, is_terminal=False).splitlines() == [
        f"{ROWS[0][0]}\tscheduled\ta [bold] title",
        f"{ROWS[1][0]}\tdone\tx y",
    ]


@pytest.mark.parametrize("width", [20, 200])
def test_ids_in_a_terminal_are_whole_also_where_the_terminal_is_narrow(width: int) -> None:
    header, *rows = printed(width, is_terminal=True).splitlines()
    assert header.split() == ["request", "status", "reference"]
    assert [row.split()[0] for row in rows] == [row[0] for row in ROWS]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_cells_give_no_orders_to_the_terminal(is_terminal: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=is_terminal, color_system=None)
    rows = table("error", rows=[("a\x1b]0;b\x07\u202ec\x9b2Jd",)])
    Screen(console, as_json=False).listing({}, rows)
    assert output.getvalue().split()[-1] == "a\\x1b]0;b\\x07\\u202ec\\x9b2Jd"


def test_table_of_figures_in_a_pipe_keeps_its_header() -> None:
    output = io.StringIO()
    console = Console(file=output, width=20, force_terminal=False)
    figures = table("test split", "AUC", rows=[("the model", "0.86")], numbers=(1,))
    Screen(console, as_json=False).result({}, figures)
    assert output.getvalue() == "test split\tAUC\nthe model\t0.86\n"


def test_facts_in_a_pipe_are_not_wrapped() -> None:
    output = io.StringIO()
    console = Console(file=output, width=20, force_terminal=False)
    long = "word " * 20
    Screen(console, as_json=False).result({}, facts({"not covered": long, "open": None}), long)
    assert output.getvalue() == f"not covered\t{long.strip()}\nopen\n{long}\n"
