"""Compute digests of weight files, without torch."""

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
    """Return the SHA-256 of the names, types, shapes and values of all tensors in *.safetensors.

    The distribution over files and their metadata do not count, so that conversions by different
    library versions have the same digest. Raises OSError and SafetensorError.
    """
    tensors: dict[str, str] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= _cached(_tensor_digests, path)
    digest = hashlib.sha256()
    for name, content in sorted(tensors.items()):
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; cached until its inode, size or modification time changes."""
    digest: str = _cached(_file_digest, path)
    return digest


def _cached(digest: Callable[[Path], Any], path: Path) -> Any:
    """Read an unchanged file once per process: training builds the same backbone several times."""
    stat = path.stat()
    return _read(digest, path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=256)
def _read(digest: Callable[[Path], Any], path: Path, _state: tuple[int, int, int]) -> Any:
    return digest(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor_digests(path: Path) -> dict[str, str]:
    # Tensors are read as bytes, because a gateway without torch verifies conversions as well.
    with safe_open(path, framework="numpy"):  # Checks that file and header agree.
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
