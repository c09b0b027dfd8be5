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


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_every_locked_package_has_an_exact_version_and_hashes(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.lstrip().startswith(("#", "--hash=")):
            assert re.fullmatch(r"[\w.-]+==[\w.]+ \\", line)
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", lines[number + 1])


def test_the_image_installs_a_part_of_the_locked_packages() -> None:
    image, everything = (
        set(re.findall(r"^[\w.-]+==\S+", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements-image.lock", "requirements.lock")
    )
    assert image < everything
    assert not {
        line for line in image | everything if line.startswith(("torch=", "nvidia", "triton"))
    }
