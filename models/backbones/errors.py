"""Define errors that processes without torch raise as well."""

from __future__ import annotations

from typing import Final

_DEFAULT_ADVICE: Final = (
    "Give a directory with config.json, *.safetensors and the tokenizer's files"
    " (hf:/path/to/model), or the id of a model that this machine has in its cache or can fetch"
    " from the Hugging Face hub (hf:google-t5/t5-base)."
)


class BackboneUnavailableError(ValueError):
    """A language model cannot be loaded."""

    def __init__(self, name: str, reason: str, advice: str = _DEFAULT_ADVICE) -> None:
        """Build the message from the backbone's name, the reason and the advice."""
        super().__init__(f"the backbone {name} cannot be loaded: {reason}. {advice}")
