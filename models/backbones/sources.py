"""Where the files of a language model are: a package's, a directory's, or the hub's.

Knows how they are found and whether they are the same as before, and reads their tokenizers; torch
is not needed for that.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from models.backbones.errors import BackboneUnavailableError
from models.backbones.packaged import PACKAGED, converted
from models.backbones.weight_files import weights_sha256
from models.prompts.text_prompt import TextTokens
from models.runtime.progress_bars import no_progress_bars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: Code that a model brings along is never run, and nothing is looked for elsewhere.
PLACE: Final = {"local_files_only": True, "trust_remote_code": False}
#: All that loading reads: no weights of other frameworks, no code.
_FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
#: All that writing prompts reads.
_WORDS: Final = ("*.json", "*.model", "*.txt", "*.jinja")
#: Conversions in folders of their own, and the same weights in their maker's layout.
_OTHERS: Final = ["*/*", "consolidated*"]
#: What loading ends in where files lack, are damaged, or are of a kind unknown to transformers.
_FAILURES: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)


class SourceChangedError(BackboneUnavailableError):
    """The weights of a language model are others than those that something was trained on."""

    def __init__(self, name: str, wanted: str, found: str) -> None:
        """Name both."""
        super().__init__(
            name,
            f"its weights have changed (SHA-256 {found[:12]}…, trained on {wanted[:12]}…)",
            "Bring back the files that it was trained on, or train anew.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The directory of a model, and the digest of its weights."""

    directory: Path
    sha256: str


def locate(name: str, wanted: str | None = None) -> Source:
    """Find a model, converting or downloading it where need be.

    `wanted` is the digest that its weights must have. Raises BackboneUnavailableError, and where
    they have another one SourceChangedError.
    """
    with explained(name):
        directory = _directory(name)
        source = Source(directory=directory, sha256=weights_sha256(directory))
    if wanted not in {None, source.sha256}:
        raise SourceChangedError(name, wanted or "", source.sha256)
    return source


def read_settings(source: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the settings and the tokenizer of the model in a directory."""
    settings = AutoConfig.from_pretrained(source, **PLACE)
    return settings, AutoTokenizer.from_pretrained(source, **PLACE)


def read_limit(settings: PreTrainedConfig) -> int | None:
    """Return how many tokens the model reads, where it says so."""
    limit: int | None = getattr(settings, "max_position_embeddings", None)
    return limit


def load_tokens(name: str, wording: str) -> TextTokens:
    """Return what writes this causal model's prompts.

    Raises BackboneUnavailableError, also for encoder-decoders, and NoAnswerTokensError.
    """
    with explained(name):
        settings, tokenizer = read_settings(_directory(name, _WORDS))
    if settings.is_encoder_decoder:
        raise BackboneUnavailableError(name, "it is no causal model")
    return TextTokens(tokenizer, keep_end_token=False, limit=read_limit(settings), wording=wording)


def is_path(text: str) -> bool:
    """Say whether this names a directory, rather than a model of the hub."""
    return text.startswith(("/", ".", "~")) or Path(text).is_dir()


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn whatever loading ends in into a BackboneUnavailableError."""
    try:
        yield
    except BackboneUnavailableError:
        raise
    except _FAILURES as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise BackboneUnavailableError(name, first.rstrip(".")) from error


def _directory(name: str, files: Sequence[str] = _FILES) -> Path:
    if name in PACKAGED:
        return converted(name)
    if not is_path(name):
        with no_progress_bars():
            return _snapshot(name, files)
    if not Path(name).is_dir():
        raise BackboneUnavailableError(name, "there is no such directory")
    return Path(name)


def _snapshot(name: str, files: Sequence[str]) -> Path:
    """Return a model's files from the hub, of the commit that is here already where one is.

    So what is here stays what it is although its makers go on, and what lacks of it is fetched.
    """
    fetch = partial(snapshot_download, name, allow_patterns=list(files), ignore_patterns=_OTHERS)
    try:
        commit = Path(str(fetch(local_files_only=True))).name
    except LocalEntryNotFoundError:
        return Path(str(fetch()))
    return Path(str(fetch(revision=commit)))
