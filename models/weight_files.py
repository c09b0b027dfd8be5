"""What the weight files of a language model hold, as one digest. Knows files; no model."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch


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
    with safe_open(path, framework="pt") as opened:
        return {name: _tensor_digest(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118 -- it is no dict


def _tensor_digest(tensor: torch.Tensor) -> str:
    import torch  # noqa: PLC0415 -- whoever reads tensors has it; file digests need none

    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    # As bytes, for NumPy has no bfloat16.
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
