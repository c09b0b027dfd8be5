"""The artifact store: directories of weights on a file system or another store of fsspec.

releases/{release}.{job}.{epoch}/  published releases, immutable; only a row makes one valid
releases/{release}/                releases that earlier versions published
staging/{job}/{epoch}/             files that one claim of a job writes; always on a local disk
adapters/{release}/                adapters that a serving engine reads; always on a local disk
incoming/                          unfinished copies, renamed when complete
locks/                             locks of processes that use files; always on a local disk
machine-id                         the name of the local disk
"""

from __future__ import annotations

import re
import secrets
import shutil
import socket
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from app.domain.errors import InvalidInputError
from app.private_files import create_once, sync
from app.storage import file_locks
from app.storage.file_trees import digest, files, move_in, sync_tree
from app.storage.remote_artifacts import RemoteArtifacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STAGING: Final = "staging"
_RELEASES: Final = "releases"
_ADAPTERS: Final = "adapters"
_INCOMING: Final = "incoming"
_LOCKS: Final = "locks"
_MACHINE: Final = "machine-id"
#: Begins the names of unfinished copies that a claim publishes.
_PUBLICATION: Final = "publish-"
_CLAIMED: Final = re.compile(r"[^/]+/[^/]+\.(?P<job>[^./]+)\.(?P<epoch>[0-9]+)")


class ArtifactStore:
    """Artifact directories under one root. All paths in arguments are relative to the root.

    Raises InvalidInputError for a path that does not consist of plain names.
    """

    def __init__(self, root: str, cache: Path) -> None:
        """Open the store; `cache` has downloads and staging if the root is a remote store."""
        file_system, base = url_to_fs(root)
        is_local = isinstance(file_system, LocalFileSystem)
        self._remote = None if is_local else RemoteArtifacts(file_system, str(base).rstrip("/"))
        self._local = (Path(base) if is_local else cache).absolute()
        self._local.mkdir(parents=True, exist_ok=True)

    @cached_property
    def machine(self) -> str:
        """The name of the local disk: a host name and a random part, chosen at the first use.

        Host names alone do not identify disks: containers may share or change them.
        """
        name = f"{socket.gethostname()[:32]}-{secrets.token_hex(8)}"
        return create_once(self._local / _MACHINE, name.encode).decode().strip()

    @staticmethod
    def release_path(release_id: str, job_id: str | None = None, epoch: int = 0) -> str:
        """Return the path at which a claim of a job publishes a release, relative to the root.

        The path contains the claim, so that a stale claim cannot write to a directory that the
        database names. Readers take the path from the release's row.
        """
        claim = "" if job_id is None else f".{job_id}.{epoch}"
        return f"{_RELEASES}/{release_id}{claim}"

    @staticmethod
    def claim_of(relative: str) -> tuple[str, int] | None:
        """Return the job and epoch in a release's path; None if an earlier version published it."""
        match = _CLAIMED.fullmatch(relative)
        return None if match is None else (match["job"], int(match["epoch"]))

    @staticmethod
    def adapter_path(release_id: str) -> str:
        """Return the path of a release's adapter for serving engines, relative to the root."""
        return f"{_ADAPTERS}/{release_id}"

    def staging(self, job_id: str, epoch: int) -> Path:
        """Return the local directory for this claim, and create the directory if missing."""
        directory = self._local_of(f"{_STAGING}/{job_id}/{epoch}")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def claim_lock(self, job_id: str, epoch: int) -> AbstractContextManager[None]:
        """Return a lock that says that a process of this claim may still write files."""
        return file_locks.shared(self._lock_of(f"{_STAGING}/{job_id}/{epoch}"))

    def end_claim(self, job_id: str, epoch: int) -> bool:
        """Unlink the claim's staging files; return whether no process of the claim is left."""
        self._unlink_tree(self._local_of(f"{_STAGING}/{job_id}/{epoch}"))
        return self.remove_unused_staging(job_id, epoch)

    def remove_unused_staging(self, job_id: str, epoch: int) -> bool:
        """Unlink the claim's staging files; return False and keep them if its process lives."""
        relative = f"{_STAGING}/{job_id}/{epoch}"
        with file_locks.exclusive(self._lock_of(relative)) as is_free:
            if is_free:
                self._unlink_tree(self._local_of(relative))
                with suppress(OSError):  # Other claims of the job have files.
                    self._local_of(f"{_STAGING}/{job_id}").rmdir()
        return is_free

    def exists(self, relative: str) -> bool:
        """Return whether the complete artifact exists."""
        directory = self._local_of(relative)
        return directory.is_dir() if self._remote is None else self._remote.exists(relative)

    @contextmanager
    def reading(self, relative: str) -> Iterator[Path]:
        """Yield a local directory with the artifact, which stays until the end of the block.

        Raises FileNotFoundError if the artifact does not exist.
        """
        if self._remote is None:
            yield self.local_path(relative)
            return
        with file_locks.shared(self._lock_of(relative)):
            yield self.local_path(relative)

    def local_path(self, relative: str) -> Path:
        """Return a local directory with the artifact; download a remote artifact once.

        Another process may unlink a downloaded copy at any time, except within `reading`. Raises
        FileNotFoundError if the artifact does not exist.
        """
        directory = self._local_of(relative)
        if directory.is_dir():
            return directory
        if self._remote is None or not self._remote.exists(relative):
            raise FileNotFoundError(f"the artifact {relative} does not exist")
        with self._scratch() as scratch:
            self._remote.download(relative, scratch / "artifact")
            move_in(scratch / "artifact", directory)
        return directory

    def read_text(self, relative: str, name: str) -> str:
        """Return a file of a published artifact, without a download of the others.

        Raises FileNotFoundError if the artifact has no such file.
        """
        if self._remote is not None:
            return self._remote.read_text(f"{relative}/{name}")
        return (self._local_of(relative) / name).read_text()

    def publish(
        self, local_dir: Path, relative: str, check: Callable[[], None] = lambda: None
    ) -> None:
        """Move a finished directory to `relative`, durably.

        A reader sees either the complete artifact or none. `local_dir` does not exist afterward.
        Publishing the same content again changes nothing. `check` is called between the parts of
        an upload and before a directory appears; an exception of `check` ends the publication.
        """
        if self._remote is not None:
            names = {path.relative_to(local_dir).as_posix(): path for path in files(local_dir)}
            self._remote.upload(names, "/".join(_checked(relative)), check)
            shutil.rmtree(local_dir)
            return
        target = self._local_of(relative)
        with self._scratch(_PUBLICATION) as scratch:
            shutil.move(local_dir, scratch / "artifact")  # A rename, or a copy from another disk.
            sync_tree(scratch / "artifact")
            check()
            move_in(scratch / "artifact", target)

    @contextmanager
    def writing_adapter(self, release_id: str) -> Iterator[Path]:
        """Yield an empty directory that becomes the release's adapter at the end of the block.

        The adapter stays on this machine, where the engine reads the files, even if the root is a
        remote store.
        """
        with self._scratch() as scratch:
            incoming = scratch / "artifact"
            incoming.mkdir()
            yield incoming
            sync_tree(incoming)
            move_in(incoming, self._local_of(self.adapter_path(release_id)))

    def adapters(self) -> list[str]:
        """Return the ids of the releases with an adapter on this machine."""
        return _names(self._local / _ADAPTERS)

    def remove(self, relative: str) -> dict[str, str]:
        """Unlink the artifact and return path → SHA-256 of each unlinked file.

        Files are never overwritten in place, because a reader may still have them mapped. A
        downloaded copy stays while a process is `reading` the copy.
        """
        if self._remote is None:
            return self._unlink_tree(self._local_of(relative))
        return self._remote.remove("/".join(_checked(relative))) | self.evict(relative)

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

    def remove_incoming(self, *, with_publications: bool = False) -> dict[str, str]:
        """Unlink unfinished copies of processes that have ended.

        `with_publications` includes copies that living processes publish. Only the holder of a
        job's lease may pass it: all these processes belong to stale claims.
        """
        removed: dict[str, str] = {}
        for name in _names(self._local / _INCOMING):
            relative = f"{_INCOMING}/{name}"
            with file_locks.exclusive(self._lock_of(relative)) as is_free:
                if is_free or (with_publications and name.startswith(_PUBLICATION)):
                    removed |= self._unlink_tree(self._local_of(relative))
        return removed

    def evict(self, relative: str) -> dict[str, str]:
        """Unlink the local copy of a remote artifact, unless a process reads the copy."""
        if self._remote is None:
            return {}
        with file_locks.exclusive(self._lock_of(relative)) as is_free:
            return self._unlink_tree(self._local_of(relative)) if is_free else {}

    def evict_all(self) -> dict[str, str]:
        """Unlink all local copies of remote artifacts that no process reads."""
        removed: dict[str, str] = {}
        for name in _names(self._local / _RELEASES) if self._remote is not None else ():
            removed |= self.evict(f"{_RELEASES}/{name}")
        return removed

    def copies(self) -> list[str]:
        """Return the paths of local copies of remote artifacts, and of unfinished copies."""
        releases = _names(self._local / _RELEASES) if self._remote is not None else []
        paths = [f"{_RELEASES}/{name}" for name in releases]
        return paths + [f"{_INCOMING}/{name}" for name in _names(self._local / _INCOMING)]

    def staged_jobs(self) -> list[str]:
        """Return the ids of the jobs that have a staging directory on this machine."""
        return _names(self._local / _STAGING)

    def staged_epochs(self, job_id: str) -> list[int]:
        """Return the epochs of the job's claims with a staging directory on this machine."""
        names = _names(self._local_of(f"{_STAGING}/{job_id}"))
        return [int(name) for name in names if name.isdecimal()]

    def published(self) -> list[str]:
        """Return the paths of all published artifacts, whether the database refers to them or not.

        On a remote store, the result includes artifacts with an interrupted upload. These are never
        read, but must be shredded too.
        """
        if self._remote is None:
            names = _names(self._local / _RELEASES)
        else:
            names = sorted({name.split("/", 1)[0] for name in self._remote.names(_RELEASES)})
        return [f"{_RELEASES}/{name}" for name in names]

    def _local_of(self, relative: str) -> Path:
        return self._local.joinpath(*_checked(relative))

    def _lock_of(self, relative: str) -> Path:
        return self._local / _LOCKS / ".".join(_checked(relative))

    @contextmanager
    def _scratch(self, prefix: str = "") -> Iterator[Path]:
        """Yield a new directory on the disk of the local store, so that a rename works."""
        relative = f"{_INCOMING}/{prefix}{secrets.token_hex(8)}"
        directory = self._local_of(relative)
        with file_locks.shared(self._lock_of(relative)):
            directory.mkdir(parents=True)
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        with file_locks.exclusive(self._lock_of(relative)):
            pass  # Removes the file of the lock.

    def _unlink_tree(self, directory: Path) -> dict[str, str]:
        removed: dict[str, str] = {}
        if not directory.is_dir():
            return removed
        for path in files(directory):
            with suppress(FileNotFoundError):  # Another sweeper may unlink the file.
                removed[path.relative_to(self._local).as_posix()] = digest(path)
                path.unlink()
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
        sync(directory.parent)
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
