"""Locate the files of a language model: in a package, a directory, or the Hugging Face hub.

Also checks that the weights have not changed since training, and reads tokenizers. Needs no torch.
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
from models.backbones.packaged import PACKAGED, convert_package
from models.backbones.weight_files import weights_sha256
from models.prompts.text_prompt import TextTokens
from models.runtime.progress_bars import no_progress_bars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: Options of every `from_pretrained` call: no code from the model is run, nothing is downloaded.
LOAD_OPTIONS: Final = {"local_files_only": True, "trust_remote_code": False}
#: Files that loading a model needs: no weights of other frameworks, no code.
_MODEL_FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
#: Files that the tokenizer needs.
_TOKENIZER_FILES: Final = ("*.json", "*.model", "*.txt", "*.jinja")
#: Copies of the weights: conversions in subfolders, and the vendor's own layout.
_IGNORED_FILES: Final = ["*/*", "consolidated*"]
#: Exceptions of transformers for files that are missing, damaged, or of an unknown kind.
_LOAD_ERRORS: Final = (
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
    """The weights of a language model have changed since a release was trained on them."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        """Take the SHA-256 of the weights at training time, and of the weights on disk."""
        super().__init__(
            name,
            f"its weights have changed (SHA-256 {actual[:12]}…, trained on {expected[:12]}…)",
            "Restore the original files, or train again.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The directory of a model, and the digest of its weights."""

    directory: Path
    sha256: str


def locate(name: str, expected_sha256: str | None = None) -> Source:
    """Return the location of a model, after converting or downloading it where necessary.

    Raises BackboneUnavailableError, and SourceChangedError if the weights have another digest than
    `expected_sha256`.
    """
    with translate_load_errors(name):
        directory = _directory(name)
        source = Source(directory=directory, sha256=weights_sha256(directory))
    if expected_sha256 not in {None, source.sha256}:
        raise SourceChangedError(name, expected_sha256 or "", source.sha256)
    return source


def read_settings(source: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the settings and the tokenizer of the model in a directory."""
    settings = AutoConfig.from_pretrained(source, **LOAD_OPTIONS)
    return settings, AutoTokenizer.from_pretrained(source, **LOAD_OPTIONS)


def read_limit(settings: PreTrainedConfig) -> int | None:
    """Return the maximum number of tokens of a prompt, if the model's settings state one."""
    limit: int | None = getattr(settings, "max_position_embeddings", None)
    return limit


def load_tokens(name: str, wording: str) -> TextTokens:
    """Return the prompt writer of a causal model.

    Raises BackboneUnavailableError, also for encoder-decoders, and NoAnswerTokensError.
    """
    with translate_load_errors(name):
        settings, tokenizer = read_settings(_directory(name, _TOKENIZER_FILES))
    if settings.is_encoder_decoder:
        raise BackboneUnavailableError(name, "it is not a causal model")
    return TextTokens(tokenizer, keep_end_token=False, limit=read_limit(settings), wording=wording)


def is_path(text: str) -> bool:
    """Return whether `text` is a directory rather than the id of a model on the hub."""
    return text.startswith(("/", ".", "~")) or Path(text).is_dir()


@contextmanager
def translate_load_errors(name: str) -> Iterator[None]:
    """Raise errors of loading a model as BackboneUnavailableError."""
    try:
        yield
    except BackboneUnavailableError:
        raise
    except _LOAD_ERRORS as error:
        first_line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise BackboneUnavailableError(name, first_line.rstrip(".")) from error


def _directory(name: str, files: Sequence[str] = _MODEL_FILES) -> Path:
    if name in PACKAGED:
        return convert_package(name)
    if not is_path(name):
        with no_progress_bars():
            return _snapshot(name, files)
    if not Path(name).is_dir():
        raise BackboneUnavailableError(name, "there is no such directory")
    return Path(name)


def _snapshot(name: str, files: Sequence[str]) -> Path:
    """Return a model's files from the hub, preferably of the commit that is already in the cache.

    A cached model thus stays the same when its authors publish a new version; missing files of the
    commit are downloaded.
    """
    download = partial(
        snapshot_download, name, allow_patterns=list(files), ignore_patterns=_IGNORED_FILES
    )
    try:
        commit = Path(str(download(local_files_only=True))).name
    except LocalEntryNotFoundError:
        return Path(str(download()))
    return Path(str(download(revision=commit)))
