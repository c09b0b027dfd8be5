"""Language models of others by name: settings and tokenizers. Knows transformers, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transformers import AutoConfig, AutoTokenizer

from models.text_prompt import TextTokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: What reading ends in where files lack, are damaged, or are of a kind unknown to transformers.
_FAILURES: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


class BackboneUnavailableError(ValueError):
    """A language model cannot be loaded."""

    def __init__(self, name: str, reason: str) -> None:
        """Say why, and what to give instead."""
        super().__init__(
            f"the backbone hf:{name} cannot be loaded: {reason}. Give a directory with config.json,"
            " *.safetensors and the tokenizer's files (hf:/path/to/model), or the id of a model"
            " that this machine has in its cache or can fetch from the Hugging Face hub"
            " (hf:google-t5/t5-base)."
        )


def is_path(name: str) -> bool:
    """Say whether the name is a directory's rather than an id of the hub."""
    return name.startswith(("/", ".", "~")) or Path(name).is_dir()


def place(name: str) -> dict[str, Any]:
    """Return how transformers is to look for it; code that a model brings along is never run."""
    return {"local_files_only": is_path(name), "trust_remote_code": False}


def first_line(error: Exception) -> str:
    """Return the start of what transformers says, which goes on for pages."""
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return first.rstrip(".")


def read_source(name: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return a model's settings and its tokenizer; raises BackboneUnavailableError."""
    if is_path(name) and not Path(name).is_dir():
        raise BackboneUnavailableError(name, "there is no such directory")
    try:
        settings = AutoConfig.from_pretrained(name, **place(name))
        return settings, AutoTokenizer.from_pretrained(name, **place(name))
    except _FAILURES as error:
        raise BackboneUnavailableError(name, first_line(error)) from error


def read_limit(settings: PreTrainedConfig) -> int | None:
    """Return how many tokens the model reads, where it says so."""
    limit: int | None = getattr(settings, "max_position_embeddings", None)
    return limit


def load_tokens(name: str) -> TextTokens:
    """Return what writes this causal model's prompts.

    Raises BackboneUnavailableError, also for encoder-decoders, and NoAnswerTokensError.
    """
    settings, tokenizer = read_source(name)
    if settings.is_encoder_decoder:
        raise BackboneUnavailableError(name, "it is no causal model")
    return TextTokens(tokenizer, closed=False, limit=read_limit(settings))
