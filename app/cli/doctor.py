"""`lethe doctor`: check an installation, or a running service, and say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from app.cli.client import Service
from app.cli.exit_codes import ExitCode
from app.cli.failures import command
from app.cli.health_checks import installation_checks, service_checks
from app.cli.options import AsJson, Key, Url
from app.cli.screen import Screen, table
from app.settings import get_settings
from app.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.health_checks import Check


@command
def doctor(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Check the installation on this machine, and say what to do; change nothing.

    With --url, check the service at this address only.
    """
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    checks = [] if url is not None else list(installation_checks(settings))
    with Service.of(settings, url, key) as service:
        # A gateway of this machine has the warnings of the database, which are checked already.
        checks += service_checks(service, with_warnings=url is not None)
    problems = sum(not check.ok for check in checks)
    document = {"ok": not problems, "version": VERSION, "checks": [_entry(each) for each in checks]}
    screen.listing(document, _checks_table(checks), _summary(problems))
    if problems:
        raise typer.Exit(ExitCode.FAILURE)


def _entry(check: Check) -> dict[str, Any]:
    return {"name": check.name, "ok": check.ok, "text": check.text, "advice": check.advice or None}


def _checks_table(checks: Sequence[Check]) -> Any:
    rows = [
        ("ok" if check.ok else "problem", check.name, f"{check.text} {check.advice}".strip())
        for check in checks
    ]
    return table("", "check", "result", rows=rows)


def _summary(problems: int) -> str:
    if not problems:
        return "No problem."
    return "1 problem." if problems == 1 else f"{problems} problems."
