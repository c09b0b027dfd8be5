"""What the weights of a language model are, as one digest. Knows files; no model and no torch."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def weights_sha256(directory: Path) -> str:
    """Return the SHA-256 of all tensors in *.safetensors: of names, types, shapes and values.

    How they are spread over files, and what else the files say, does not count: a conversion by
    another version of a library is the same model. Raises OSError and SafetensorError.
    """
    tensors: dict[str, str] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= _remembered(_tensor_digests, path)
    digest = hashlib.sha256()
    for name, content in sorted(tensors.items()):
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file that nobody changes in place."""
    found: str = _remembered(_file_digest, path)
    return found


def _remembered(of: Callable[[Path], Any], path: Path) -> Any:
    """Read a file once per process: training builds the same backbone several times."""
    found = path.stat()
    return _read(of, path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=256)
def _read(of: Callable[[Path], Any], path: Path, _state: tuple[int, int, int]) -> Any:
    return of(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor_digests(path: Path) -> dict[str, str]:
    # Read as bytes, for a gateway without torch has to know a conversion again.
    with safe_open(path, framework="numpy"):  # Checks that the file is what its header says.
        pass
    with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        return {
            name: _digest(content, start, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }


def _digest(content: mmap, start: int, entry: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(f"{entry['dtype']} {tuple(entry['shape'])} ".encode())
    begin, end = entry["data_offsets"]
    with memoryview(content) as whole, whole[start + begin : start + end] as part:
        digest.update(part)
    return digest.hexdigest()
