"""Run `lethe` commands in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from app.cli.root import application
from app.settings import get_settings

if TYPE_CHECKING:
    from click.testing import Result


def lethe(*arguments: str) -> Result:
    """Run the command; an exception other than an exit fails the test."""
    get_settings.cache_clear()
    return CliRunner().invoke(application, arguments, catch_exceptions=False)


def document(*arguments: str) -> Any:
    """Run the command with --json and return its JSON document."""
    return json.loads(lethe(*arguments, "--json").stdout)
