"""Where the files of a language model are: a package's, a directory's, or the hub's.

Knows how they are found and whether they are the same as before; nothing of what they do.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from models.backbones import BackboneUnavailableError
from models.bars import no_bars
from models.packaged import PACKAGED, converted
from models.weight_files import weights_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

#: All that loading reads: no weights of other frameworks, no code.
_FILES: Final = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
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


def _directory(name: str) -> Path:
    if name in PACKAGED:
        return converted(name)
    if not is_path(name):
        with no_bars():
            return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_OTHERS))
    if not Path(name).is_dir():
        raise BackboneUnavailableError(name, "there is no such directory")
    return Path(name)
