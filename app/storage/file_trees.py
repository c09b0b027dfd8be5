"""Move, compare and flush directories of files on a local disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from app.private_files import sync

if TYPE_CHECKING:
    from pathlib import Path


def files(directory: Path) -> list[Path]:
    """Return all files below the directory."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def move_in(incoming: Path, target: Path) -> None:
    """Rename `incoming` to `target`. An existing target with the same content stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        if digests(target) == digests(incoming):
            return
        # A claim published this directory and died before it recorded the release.
        target.rename(incoming.parent / "replaced")
    try:
        incoming.rename(target)
    except OSError:
        # Another process moved in the same artifact since the check above.
        if not target.is_dir() or digests(target) != digests(incoming):
            raise
    sync(target.parent)


def digests(directory: Path) -> dict[str, str]:
    """Return relative path → SHA-256 of all files below the directory."""
    return {path.relative_to(directory).as_posix(): digest(path) for path in files(directory)}


def digest(path: Path) -> str:
    """Return the SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(directory: Path) -> None:
    """Flush all files, then all directories, to the disk."""
    paths = sorted(directory.rglob("*"), key=lambda path: path.is_dir())
    for path in (*paths, directory):
        sync(path)
