"""Rules that every `lethe` command keeps: help, JSON, errors, exit status, service options."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

from app.cli.exit_codes import MEANINGS, ExitCode
from app.cli.root import application
from app.services.secrets import load_signer
from app.services.signing_keys import register
from app.version import VERSION
from tests.support.command_line import lethe
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.restorable import Restorable

#: Commands that start processes or read files on this machine.
LOCAL = {"demo", "up", "import", "train", "verify", "restore-check"}


def leaves(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        elif name != "benchmark":  # A program of its own, which replaces this process.
            yield (*path, name), command


COMMANDS = dict(leaves(get_command(application)))


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_short_help_and_json(path: tuple[str, ...]) -> None:
    shown = lethe(*path, "-h")
    assert shown.exit_code == 0
    assert shown.stdout == lethe(*path, "--help").stdout
    assert "--json" in options(COMMANDS[path])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_reports_an_unknown_option_in_one_line_and_as_json(
    path: tuple[str, ...],
) -> None:
    ended = lethe(*path, "--no-such-option")
    assert (ended.exit_code, ended.stdout) == (ExitCode.BAD_INPUT, "")
    (line,) = ended.stderr.splitlines()
    assert "--no-such-option" in line
    assert f"lethe {' '.join(path)} --help".split() == line.split()[-len(path) - 2 :]
    error = json.loads(lethe(*path, "--no-such-option", "--json").stdout)["error"]
    assert (error["code"], error["message"]) == ("invalid-input", line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_commands_that_could_call_a_service_take_address_and_key(path: tuple[str, ...]) -> None:
    has_both = {"--url", "--key"} <= options(COMMANDS[path])
    assert has_both is (path[0] not in LOCAL)


def test_value_that_is_no_choice_is_one_line_and_a_json_document() -> None:
    ended = lethe("requests", "list", "--status", "done")
    assert (ended.exit_code, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    message = json.loads(lethe("requests", "list", "--status", "done", "--json").stdout)
    assert "'on_hold'" in message["error"]["message"]


def test_value_after_two_dashes_is_not_the_option_json() -> None:
    assert lethe("recommend", "--", "--json", "more").stdout == ""


def test_version_and_completion() -> None:
    assert lethe("--version").stdout == f"lethe {VERSION}\n"
    assert "--install-completion" in lethe("--help").stdout
    script = subprocess.run(
        [sys.executable, "-m", "app.cli"],
        cwd=ROOT,
        env=os.environ
        | {"_LETHE_COMPLETE": "complete_bash", "COMP_WORDS": "lethe requests c"}
        | {"COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert script.stdout.split() == ["cancel", "certificate"]


def test_exit_codes_are_the_same_in_help_and_guide() -> None:
    assert set(MEANINGS) == set(ExitCode)
    shown = " ".join(lethe("--help").stdout.split())
    guide = (ROOT / "docs" / "guides" / "usage.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", guide, re.MULTILINE))
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning}" in shown
        assert rows.pop(str(code.value)) == meaning
    assert rows == {}


@pytest.mark.parametrize("arguments", [("--version",), ("jobs", "--json"), ("jobs", "-h")])
def test_full_output_device_is_a_failure_in_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 -- no path of a test directory
        ended = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr


def test_closed_streams_are_no_error() -> None:
    command = f"exec {sys.executable} -m app.cli jobs >&- 2>&-"
    ended = subprocess.run(["sh", "-c", command], cwd=ROOT, check=False)
    assert ended.returncode == ExitCode.SUCCESS


@pytest.mark.parametrize(
    "arguments",
    [("keys", "--json"), ("keys",), ("requests", "show", "ID"), ("--help",), ("jobs", "-h")],
)
def test_reader_that_ends_first_stops_the_command_without_a_message(
    on_sqlite: Restorable, arguments: tuple[str, ...]
) -> None:
    request_id = on_sqlite.forget("ann")
    on_sqlite.run(lambda uow, opened: register(uow, load_signer(opened.settings)))
    arguments = tuple(request_id if each == "ID" else each for each in arguments)
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (ExitCode.BROKEN_PIPE, "")
