"""Write docs/settings.md from app/settings.py; with --check, compare instead.

Run from the repository root: python -m scripts.settings_docs [--check]
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from pydantic import AliasChoices

from app.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

Every setting is an environment variable. A setting can also be a file under `/run/secrets`, where
Docker and Kubernetes mount secrets: the file `lethe_hash_key` sets `LETHE_HASH_KEY`. Where both
exist, the variable counts. Times are in seconds.

This file is generated: change `app/settings.py`, then run `make settings`.
"""
#: The heading of each table, by the first of its fields in the order of the class.
HEADINGS = {
    "home": "Storage and secrets",
    "host": "HTTP",
    "batch_size": "Deletion requests",
    "backbone": "Training and unlearning",
    "job_lease": "Jobs and replicas",
    "scoring_threads": "Recommendations",
    "scorer": "Serving engine",
    "log_level": "Logs",
}
TABLE = "| Variable | Default | Meaning |\n|---|---|---|\n"


def settings_document() -> str:
    """Return the whole document: the tables in the order of the fields of the class."""
    parts = [INTRODUCTION]
    for name, field in Settings.model_fields.items():
        if name in HEADINGS:
            parts.append(f"\n## {HEADINGS[name]}\n\n{TABLE}")
        parts.append(_row(name, field))
    return "".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    """Return a field's row of the table."""
    aliases = field.validation_alias
    variables = aliases.choices if isinstance(aliases, AliasChoices) else [f"LETHE_{name.upper()}"]
    variable, *older = (f"`{variable}`" for variable in variables)
    meaning = [field.description or ""]
    if get_origin(field.annotation) is Literal:
        meaning.append(
            f"Values: {', '.join(f'`{value}`' for value in get_args(field.annotation))}."
        )
    if older:
        meaning.append(f"Older name: {', '.join(older)}.")
    text = " ".join(part for part in meaning if part).replace("|", "\\|").replace("<", "\\<")
    return f"| {variable} | {_default(field)} | {text} |\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "by platform"
    if field.default in (None, "", ()):
        return "unset"
    value = field.default
    shown = str(value).lower() if isinstance(value, bool) else f"{value}".removesuffix(".0")
    return f"`{shown}`"


def main() -> int:
    """Write the document, or print how the committed document differs."""
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(settings_document(), encoding="utf-8")
        return 0
    committed = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    current = settings_document()
    difference = list(
        difflib.unified_diff(
            committed.splitlines(), current.splitlines(), "docs/settings.md", "app/settings.py"
        )
    )
    if difference:
        print(*difference, sep="\n")
        print("docs/settings.md differs from app/settings.py. Run: make settings")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
