"""Output of the command line: literal text and JSON documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.cli.import_data import import_report
from app.cli.screen import Screen

if TYPE_CHECKING:
    import pytest


def test_brackets_in_data_are_printed_literally(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        **dict.fromkeys(("lines", "accepted", "described", "duplicates"), 1),
        **dict.fromkeys(("users", "items", "interactions"), 1),
        "format": "csv",
        "skipped": {},
        "invalid": {},
        "rejected": [{"reason": "[bold]odd", "count": 1, "examples": ["[red].csv:2"]}],
    }
    Screen.make(as_json=False).say(import_report(summary))
    assert "[bold]odd" in capsys.readouterr().out


def test_times_in_json_documents_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    Screen.make(as_json=True).document({"at": datetime(2026, 11, 23, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out)["at"].startswith("2026-11-23")
