"""Artefacts on a local or shared file system, or on any other store that fsspec knows.

    releases/{release}/          published, immutable
    staging/{job}/{epoch}/       what one claim writes; always on a local disk
    adapters/{release}/          what a serving engine reads of a release; always on a local disk
    incoming/                    copies under way, renamed when complete

Knows files and digests; what is in them, and which of them are referred to, others know.
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
#: Written last to a store that cannot rename directories.
_COMPLETE: Final = "COMPLETE"


class ArtifactStore:
    """Directories of artefacts under one root. All paths given are relative and checked."""

    def __init__(self, root: str, cache: Path) -> None:
        """`cache` holds downloads and staging where the root is not a local file system."""
        file_system, base = url_to_fs(root)
        self._remote: Any = None if isinstance(file_system, LocalFileSystem) else file_system
        self._base = str(base).rstrip("/")
        self._local = (cache if self._remote is not None else Path(base)).absolute()
        self._local.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def release_path(release_id: str) -> str:
        """Return where a release's artefact lies, relative to the root."""
        return f"{_RELEASES}/{release_id}"

    @staticmethod
    def adapter_path(release_id: str) -> str:
        """Return where a release's adapter for serving engines lies, relative to the root."""
        return f"{_ADAPTERS}/{release_id}"

    def staging(self, job_id: str, epoch: int) -> Path:
        """Return the local directory that this claim may write to, made where it is missing."""
        directory = self._local_of(f"{_STAGING}/{job_id}/{epoch}")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def exists(self, relative: str) -> bool:
        """Say whether the artefact is there, complete."""
        if self._remote is None:
            return self._local_of(relative).is_dir()
        return bool(self._remote.exists(f"{self._remote_of(relative)}/{_COMPLETE}"))

    def local_path(self, relative: str) -> Path:
        """Return a local directory with the artefact, downloading it once where need be.

        Raises FileNotFoundError where there is no such artefact.
        """
        directory = self._local_of(relative)
        if directory.is_dir():
            return directory
        if self._remote is None or not self.exists(relative):
            raise FileNotFoundError(f"there is no artefact {relative}")
        incoming = self._scratch() / "artefact"
        try:
            for name in self._remote_files(relative):
                (incoming / name).parent.mkdir(parents=True, exist_ok=True)
                self._remote.get_file(f"{self._remote_of(relative)}/{name}", str(incoming / name))
            _move_in(incoming, directory)
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)
        return directory

    def publish(self, local_dir: Path, relative: str) -> None:
        """Move a finished directory to its place: durable, and complete or not there at all.

        Publishing the same content again changes nothing; `local_dir` is gone afterwards.
        """
        target = self._local_of(relative)
        if self._remote is not None:
            self._upload(local_dir, relative)
            shutil.rmtree(local_dir)
            return
        incoming = self._scratch() / "artefact"
        try:
            shutil.move(local_dir, incoming)  # A rename, unless it comes from another disk.
            _sync_tree(incoming)
            _move_in(incoming, target)
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)

    @contextmanager
    def writing_adapter(self, release_id: str) -> Iterator[Path]:
        """Give an empty directory that becomes the release's adapter when the block has ended.

        It stays on this machine, where the engine reads it, also where the root is a remote store.
        """
        incoming = self._scratch() / "artefact"
        try:
            incoming.mkdir()
            yield incoming
            _sync_tree(incoming)
            _move_in(incoming, self._local_of(self.adapter_path(release_id)))
        finally:
            shutil.rmtree(incoming.parent, ignore_errors=True)

    def adapters(self) -> list[str]:
        """Return the ids of the releases whose adapters lie on this machine."""
        return _names(self._local / _ADAPTERS)

    def remove(self, relative: str) -> dict[str, str]:
        """Unlink the artefact; return the SHA-256 of each file that was unlinked.

        Files are never overwritten in place: a reader that has them mapped keeps what it has.
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
        """Unlink what earlier claims of the job left behind, or with None all of its staging."""
        directory = self._local_of(f"{_STAGING}/{job_id}")
        if below_epoch is None:
            return self._unlink_tree(directory)
        removed: dict[str, str] = {}
        for epoch in sorted(directory.iterdir()) if directory.is_dir() else ():
            if epoch.name.isdecimal() and int(epoch.name) < below_epoch:
                removed |= self._unlink_tree(epoch)
        return removed

    def remove_incoming(self) -> dict[str, str]:
        """Unlink copies that a crash has interrupted; for the holder of the job's lease only."""
        return self._unlink_tree(self._local / _INCOMING)

    def evict(self, relative: str) -> None:
        """Drop this machine's copy of a remote artefact, once its last reader is gone."""
        if self._remote is not None:
            self._unlink_tree(self._local_of(relative))

    def staged_jobs(self) -> list[str]:
        """Return the ids of the jobs that have a staging directory on this machine."""
        return _names(self._local / _STAGING)

    def published(self) -> list[str]:
        """Return the paths of all published artefacts, referred to or not.

        On a remote store those whose upload was interrupted count as well: they are read by
        nobody, and must be shredded like the others.
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
        """Return a new empty directory on the same disk as everything else."""
        directory = self._local / _INCOMING / secrets.token_hex(8)
        directory.mkdir(parents=True)
        return directory

    def _remote_files(self, relative: str) -> list[str]:
        prefix = self._remote_of(relative)
        if not self._remote.exists(prefix):
            return []
        found = (str(path).removeprefix(prefix + "/") for path in self._remote.find(prefix))
        return sorted(name for name in found if name != _COMPLETE)

    def _upload(self, local_dir: Path, relative: str) -> None:
        """Upload file by file; the marker comes last, and without it nothing counts as there."""
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
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            path.unlink()
            removed[path.relative_to(self._local).as_posix()] = digest
        shutil.rmtree(directory)
        _sync(directory.parent)
        return removed


def _checked(relative: str) -> list[str]:
    """Return the parts of a path that stays below the root."""
    parts = relative.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInputError("An artefact's path must be plain names, separated by slashes.")
    return parts


def _names(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if _PART.fullmatch(path.name))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def _move_in(incoming: Path, target: Path) -> None:
    """Rename into place; what is there already stays when it has the same content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        if _digests(target) == _digests(incoming):
            return
        # Left by a claim that died before its release was recorded: nothing refers to it.
        target.rename(incoming.parent / "replaced")
    incoming.rename(target)
    _sync(target.parent)


def _digests(directory: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for path in _files(directory):
        with path.open("rb") as file:
            name = path.relative_to(directory).as_posix()
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _sync_tree(directory: Path) -> None:
    """Bring all files, then all directories, to the disk."""
    paths = sorted(directory.rglob("*"), key=lambda path: path.is_dir())
    for path in (*paths, directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
