"""Check what the documents say against the code, and the lock files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage.tables import Base
from scripts.settings_docs import HEADINGS, settings_document

ROOT = Path(__file__).parents[1]
#: Documents of the present state. Decision records and results may name files that are gone.
PRESENT = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md")})
DOCUMENTS = sorted({*PRESENT, *ROOT.glob("docs/decisions/*.md")})
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = "app|worker|models|migrations|data|docs|benchmarks|tests|scripts"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", document.read_text())
    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("document", PRESENT, ids=name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    paths = re.findall(rf"`((?:{FOLDERS})/[\w/.-]*)`", document.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_glossary_names_existing_classes_and_tables() -> None:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| (.+) \|$", GLOSSARY.read_text(), re.MULTILINE)
    code = "\n".join(
        path.read_text()
        for top in ("app", "worker", "models")
        for path in (ROOT / top).rglob("*.py")
    )
    classes = set(re.findall(r"`([A-Z][A-Za-z]+)`", "\n".join(rows)))
    assert [name for name in classes if f"class {name}" not in code] == []
    tables = set(re.findall(r"tables? `(\w+)`", "\n".join(rows)))
    assert [table for table in tables if table not in Base.metadata.tables] == []


def test_the_settings_document_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_document()


def test_the_settings_document_has_the_meaning_of_every_setting() -> None:
    assert HEADINGS.keys() <= Settings.model_fields.keys()
    rows = re.findall(r"^\| `(LETHE_\w+)` \| .+ \| (.+) \|$", settings_document(), re.MULTILINE)
    assert [variable for variable, _ in rows] == [
        f"LETHE_{field.upper()}" for field in Settings.model_fields
    ]
    assert all(field.description for field in Settings.model_fields.values())


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
