"""Read and check the manifest of a directory of weights, without torch.

The directory contains `weights.safetensors` and `manifest.json`. The digest covers both: it is the
SHA-256 of the manifest, which contains the SHA-256 of the weights. A gateway in front of a serving
engine reads only the manifest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Kinds of whole models: a release can be served; unmerged weights are the result of an unlearning
#: method, before they become a release.
RELEASE: Final = "release"
UNMERGED: Final = "unfolded"
WEIGHTS: Final = "weights.safetensors"
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or does not match its manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of a directory of weights; `content` is manifest.json without the digest."""

    digest: str
    weights_digest: str
    method: str
    parent: str | None
    extra: Mapping[str, Any]
    content: Mapping[str, Any]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest, and check its digest and format; raises CheckpointError."""
    try:
        content = json.loads((directory / MANIFEST).read_text())
        digest = content.pop("digest")
        manifest = Manifest(
            digest=digest,
            weights_digest=content["weights_sha256"],
            method=content["method"],
            parent=content["parent"],
            extra=content["extra"],
            content=content,
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint in {directory}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the manifest in {directory} cannot be read") from error
    if digest != content_digest(content):
        raise CheckpointError(f"the manifest in {directory} does not match its digest")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"the checkpoint in {directory} has format {content.get('format')}, not {FORMAT}"
        )
    return manifest


def checked_weights(directory: Path, manifest: Manifest) -> Path:
    """Return the path of the weights; raises CheckpointError if they are missing or damaged."""
    path = directory / WEIGHTS
    if not path.exists() or sha256_file(path) != manifest.weights_digest:
        raise CheckpointError(f"the weights in {directory} are missing or damaged")
    return path


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content in canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
