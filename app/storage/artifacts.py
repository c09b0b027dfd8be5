"""The artifact store: directories of weights on a file system or another store of fsspec.

releases/{release}/          published releases, immutable
staging/{job}/{epoch}/       files that one claim of a job writes; always on a local disk
adapters/{release}/          adapters that a serving engine reads; always on a local disk
incoming/                    unfinished copies, renamed when complete
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from app.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STAGING: Final = "staging"
_RELEASES: Final = "releases"
_ADAPTERS: Final = "adapters"
_INCOMING: Final = "incoming"
#: A marker, written last to a store that cannot rename directories.
_COMPLETE: Final = "COMPLETE"


class ArtifactStore:
    """Artifact directories under one root. All paths in arguments are relative to the root.

    Raises InvalidInputError for a path that does not consist of plain names.
    """

    def __init__(self, root: str, cache: Path) -> None:
        """Open the store; `cache` has downloads and staging if the root is a remote store."""
        file_system, base = url_to_fs(root)
        self._remote: Any = None if isinstance(file_system, LocalFileSystem) else file_system
        self._base = str(base).rstrip("/")
        self._local = (cache if self._remote is not None else Path(base)).absolute()
        self._local.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def release_path(release_id: str) -> str:
        """Return the path of a release, relative to the root."""
        return f"{_RELEASES}/{release_id}"

    @staticmethod
    def adapter_path(release_id: str) -> str:
        """Return the path of a release's adapter for serving engines, relative to the root."""
        return f"{_ADAPTERS}/{release_id}"

    def staging(self, job_id: str, epoch: int) -> Path:
        """Return the local directory for this claim, and create the directory if missing."""
        directory = self._local_of(f"{_STAGING}/{job_id}/{epoch}")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def exists(self, relative: str) -> bool:
        """Return whether the complete artifact exists."""
        if self._remote is None:
            return self._local_of(relative).is_dir()
        return bool(self._remote.exists(f"{self._remote_of(relative)}/{_COMPLETE}"))

    def local_path(self, relative: str) -> Path:
        """Return a local directory with the artifact; download a remote artifact once.

        Raises FileNotFoundError if the artifact does not exist.
        """
        directory = self._local_of(relative)
        if directory.is_dir():
            return directory
        if self._remote is None or not self.exists(relative):
            raise FileNotFoundError(f"the artifact {relative} does not exist")
        incoming = self._scratch() / "artifact"
        try:
            for name in self._remote_files(relative):
                (incoming / name).parent.mkdir(parents=True, exist_ok=True)
                self._remote.get_file(f"{self._remote_of(relative)}/{name}", str(incoming / name))
            _move_in(incoming, directory)
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)
        return directory

    def publish(self, local_dir: Path, relative: str) -> None:
        """Move a finished directory to `relative`, durably.

        A reader sees either the complete artifact or none. `local_dir` does not exist afterward.
        Publishing the same content again changes nothing.
        """
        target = self._local_of(relative)
        if self._remote is not None:
            self._upload(local_dir, relative)
            shutil.rmtree(local_dir)
            return
        incoming = self._scratch() / "artifact"
        try:
            shutil.move(local_dir, incoming)  # A rename, or a copy from another disk.
            _sync_tree(incoming)
            _move_in(incoming, target)
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)

    @contextmanager
    def writing_adapter(self, release_id: str) -> Iterator[Path]:
        """Yield an empty directory that becomes the release's adapter at the end of the block.

        The adapter stays on this machine, where the engine reads the files, even if the root is a
        remote store.
        """
        incoming = self._scratch() / "artifact"
        try:
            incoming.mkdir()
            yield incoming
            _sync_tree(incoming)
            _move_in(incoming, self._local_of(self.adapter_path(release_id)))
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)

    def adapters(self) -> list[str]:
        """Return the ids of the releases with an adapter on this machine."""
        return _names(self._local / _ADAPTERS)

    def remove(self, relative: str) -> dict[str, str]:
        """Unlink the artifact and return path → SHA-256 of each unlinked file.

        Files are never overwritten in place, because a reader may still have them mapped.
        """
        removed: dict[str, str] = {}
        if self._remote is not None:
            for name in self._remote_files(relative):
                path = f"{self._remote_of(relative)}/{name}"
                with self._remote.open(path, "rb") as file:
                    removed[f"{relative}/{name}"] = hashlib.file_digest(file, "sha256").hexdigest()
                self._remote.rm_file(path)
            marker = f"{self._remote_of(relative)}/{_COMPLETE}"
            if self._remote.exists(marker):
                self._remote.rm_file(marker)
        return removed | self._unlink_tree(self._local_of(relative))

    def remove_staging(self, job_id: str, below_epoch: int | None = None) -> dict[str, str]:
        """Unlink staging files of claims before this epoch, or with None all of the job's files."""
        directory = self._local_of(f"{_STAGING}/{job_id}")
        if below_epoch is None:
            return self._unlink_tree(directory)
        removed: dict[str, str] = {}
        for epoch in sorted(directory.iterdir()) if directory.is_dir() else ():
            if epoch.name.isdecimal() and int(epoch.name) < below_epoch:
                removed |= self._unlink_tree(epoch)
        return removed

    def remove_incoming(self) -> dict[str, str]:
        """Unlink interrupted copies. Only the holder of a job's lease may call this."""
        return self._unlink_tree(self._local / _INCOMING)

    def evict(self, relative: str) -> None:
        """Unlink the local copy of a remote artifact. No reader may use the copy any more."""
        if self._remote is not None:
            self._unlink_tree(self._local_of(relative))

    def staged_jobs(self) -> list[str]:
        """Return the ids of the jobs that have a staging directory on this machine."""
        return _names(self._local / _STAGING)

    def published(self) -> list[str]:
        """Return the paths of all published artifacts, whether the database refers to them or not.

        On a remote store, the result includes artifacts with an interrupted upload. These are never
        read, but must be shredded too.
        """
        if self._remote is None:
            names = _names(self._local / _RELEASES)
        else:
            names = sorted({name.split("/", 1)[0] for name in self._remote_files(_RELEASES)})
        return [f"{_RELEASES}/{name}" for name in names]

    def _local_of(self, relative: str) -> Path:
        return self._local.joinpath(*_checked(relative))

    def _remote_of(self, relative: str) -> str:
        return "/".join([self._base, *_checked(relative)])

    def _scratch(self) -> Path:
        """Return a new empty directory on the disk of the local store, so that a rename works."""
        directory = self._local / _INCOMING / secrets.token_hex(8)
        directory.mkdir(parents=True)
        return directory

    def _remote_files(self, relative: str) -> list[str]:
        prefix = self._remote_of(relative)
        if not self._remote.exists(prefix):
            return []
        names = (str(path).removeprefix(prefix + "/") for path in self._remote.find(prefix))
        return sorted(name for name in names if name != _COMPLETE)

    def _upload(self, local_dir: Path, relative: str) -> None:
        """Upload the files and then the marker, without which the artifact does not exist."""
        for path in _files(local_dir):
            name = path.relative_to(local_dir).as_posix()
            target = f"{self._remote_of(relative)}/{name}"
            self._remote.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._remote.put_file(str(path), target)
        self._remote.pipe_file(f"{self._remote_of(relative)}/{_COMPLETE}", b"")

    def _unlink_tree(self, directory: Path) -> dict[str, str]:
        removed: dict[str, str] = {}
        if not directory.is_dir():
            return removed
        for path in _files(directory):
            removed[path.relative_to(self._local).as_posix()] = _digest(path)
            path.unlink()
        shutil.rmtree(directory)
        _sync(directory.parent)
        return removed


def _checked(relative: str) -> list[str]:
    """Return the parts of a path, or raise InvalidInputError if it could leave the root."""
    parts = relative.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInputError(
            f"The artifact path {relative!r} must consist of plain names, separated by slashes."
        )
    return parts


def _names(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if _PART.fullmatch(path.name))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def _move_in(incoming: Path, target: Path) -> None:
    """Rename `incoming` to `target`. An existing target with the same content stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        if _digests(target) == _digests(incoming):
            return
        # A claim published this directory and died before it recorded the release.
        target.rename(incoming.parent / "replaced")
    incoming.rename(target)
    _sync(target.parent)


def _digests(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): _digest(path) for path in _files(directory)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_tree(directory: Path) -> None:
    """Flush all files, then all directories, to the disk."""
    paths = sorted(directory.rglob("*"), key=lambda path: path.is_dir())
    for path in (*paths, directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
