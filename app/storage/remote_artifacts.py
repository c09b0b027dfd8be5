"""The files of artifacts in a remote store of fsspec, which cannot rename directories.

Each artifact has a marker, uploaded last, without which the artifact does not exist.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from fsspec.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_COMPLETE: Final = "COMPLETE"


class RemoteArtifacts:
    """Directories below one base path. All `relative` paths are checked by the caller."""

    def __init__(self, file_system: Any, base: str) -> None:
        self._files = file_system
        self._base = base

    def exists(self, relative: str) -> bool:
        """Return whether the complete artifact exists."""
        return bool(self._files.exists(self._at(f"{relative}/{_COMPLETE}")))

    def names(self, relative: str) -> list[str]:
        """Return the paths of all files below `relative`, without markers of this directory."""
        prefix = self._at(relative)
        if not self._files.exists(prefix):
            return []
        # A listing that the file system cached may lack files of other processes.
        self._files.invalidate_cache()
        names = (str(path).removeprefix(prefix + "/") for path in self._files.find(prefix))
        return sorted(name for name in names if name != _COMPLETE)

    def read_text(self, relative: str) -> str:
        """Return the content of one file. Raises FileNotFoundError."""
        return bytes(self._files.cat_file(self._at(relative))).decode()

    def download(self, relative: str, into: Path) -> None:
        for name in self.names(relative):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._at(f"{relative}/{name}"), str(into / name))

    def upload(self, files: dict[str, Path], relative: str, check: Callable[[], None]) -> None:
        """Upload name → local file, then the marker.

        `check` is called before each file and, where the file system reports progress, before each
        further part of a file; an exception of `check` ends the upload.
        """
        for name, path in files.items():
            check()
            target = self._at(f"{relative}/{name}")
            self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._files.put_file(str(path), target, callback=_Checking(check))
        check()
        self._files.pipe_file(self._at(f"{relative}/{_COMPLETE}"), b"")

    def remove(self, relative: str) -> dict[str, str]:
        """Remove the artifact and return path → SHA-256 of each file."""
        removed: dict[str, str] = {}
        for name in self.names(relative):
            path = self._at(f"{relative}/{name}")
            with suppress(FileNotFoundError):  # Another sweeper may remove the file.
                with self._files.open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                removed[f"{relative}/{name}"] = digest
                self._files.rm_file(path)
        with suppress(FileNotFoundError):
            self._files.rm_file(self._at(f"{relative}/{_COMPLETE}"))
        return removed

    def _at(self, relative: str) -> str:
        return f"{self._base}/{relative}"


class _Checking(Callback):  # type: ignore[misc] # fsspec ships no types
    """Calls `check` whenever the file system reports progress of a file."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def relative_update(self, inc: int = 1) -> None:
        self._check()
        super().relative_update(inc)
