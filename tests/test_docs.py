"""What the documents say about the code is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[1]


def test_the_readme_names_every_setting_and_no_other() -> None:
    table = re.findall(r"^\| (`LETHE_.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {name for row in table for name in re.findall(r"LETHE_\w+", row)}
    assert named == {f"LETHE_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_every_file_that_is_named_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:app|worker|models|migrations|data|docs|benchmarks)/[\w/.-]*)`", text)
    named += re.findall(r"\]\(([\w./-]+)\)", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []


def test_every_package_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
