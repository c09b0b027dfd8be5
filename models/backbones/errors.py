"""Errors of models that are raised where there is no torch as well."""

from __future__ import annotations

from typing import Final

#: What to give instead of a model that cannot be loaded.
_INSTEAD: Final = (
    "Give a directory with config.json, *.safetensors and the tokenizer's files"
    " (hf:/path/to/model), or the id of a model that this machine has in its cache or can fetch"
    " from the Hugging Face hub (hf:google-t5/t5-base)."
)


class BackboneUnavailableError(ValueError):
    """A language model cannot be loaded."""

    def __init__(self, name: str, reason: str, advice: str = _INSTEAD) -> None:
        """Say why, and what to do."""
        super().__init__(f"the backbone {name} cannot be loaded: {reason}. {advice}")
