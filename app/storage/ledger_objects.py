"""Stores of small objects that are created once: a local directory, or a store of fsspec.

No object is changed or replaced. Readers never see a part of an object.
"""

from __future__ import annotations

import inspect
import os
import stat
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from app.domain.errors import InvalidInputError
from app.domain.places import is_plain_path
from app.private_files import make_private, sync, write_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")
_LEFTOVER_SECONDS: Final = 3600.0


class LedgerObjects(Protocol):
    """A store of small objects that are created once. Names are relative paths."""

    def create(self, name: str, content: bytes) -> None:
        """Create the object durably. Raises FileExistsError if it exists."""

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of the objects, without those that do not exist."""

    def exists(self, name: str) -> bool: ...

    def names(self, directory: str) -> list[str]:
        """Return the sorted names in the directory; an empty list if there is none."""

    def remove_leftovers(self, directory: str) -> int:
        """Remove temporary files that killed writers left in the directory; return their number."""


def open_objects(root: str, directory: str) -> LedgerObjects:
    """Return the objects in the directory of this path or fsspec URL.

    Raises InvalidInputError if the URL cannot be used or the path cannot be created.
    """
    if is_plain_path(root):
        return LocalObjects(Path(root), directory)
    if not all(part.rpartition("://")[2].strip("/") for part in root.split("::")):
        # fsspec would take the working directory for a path that is missing.
        raise InvalidInputError("LETHE_LEDGER_URL names no directory or bucket. Add its name.")
    try:
        file_system, base = fsspec.core.url_to_fs(root)
    except (ValueError, ImportError, TypeError) as error:
        # The URL itself is not shown: it may contain a password.
        raise InvalidInputError(
            f"LETHE_LEDGER_URL cannot be used: {error}. Set a path or a URL that fsspec can open."
        ) from error
    base = str(base).rstrip("/")
    if isinstance(file_system, LocalFileSystem):
        return LocalObjects(Path(base), directory)  # fsspec does not flush files to the disk.
    return RemoteObjects(file_system, f"{base}/{directory}")


class LocalObjects:
    """Objects as files of this machine, in a directory for their owner only."""

    def __init__(self, root: Path, directory: str) -> None:
        """Create the root. The directory in it is created with the first object."""
        self._directory = root / directory
        try:
            _create_directories(root)
        except OSError as error:
            raise InvalidInputError(
                f"The directory {root} of the erasure ledger cannot be created:"
                f" {error.strerror}. Set LETHE_LEDGER_URL to a directory that Lethe can write,"
                " outside LETHE_HOME and the artifact store."
            ) from error
        make_private(self._directory)
        if not os.access(root, os.W_OK | os.X_OK):
            _log.warning("ledger_not_writable", setting="LETHE_LEDGER_URL", path=str(root))

    def create(self, name: str, content: bytes) -> None:
        path = self._directory / name
        _create_directories(path.parent)
        temporary = write_beside(path, content)
        try:
            os.link(temporary, path)  # Fails if the file exists, and never shows a part of it.
        finally:
            with suppress(OSError):
                temporary.unlink()
        sync(path.parent)

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        contents = {}
        for name in names:
            with suppress(FileNotFoundError):
                contents[name] = (self._directory / name).read_bytes()
        return contents

    def exists(self, name: str) -> bool:
        # Unlike Path.exists, this raises if the directory cannot be read.
        try:
            (self._directory / name).stat()
        except FileNotFoundError:
            return False
        return True

    def names(self, directory: str) -> list[str]:
        with suppress(FileNotFoundError):
            names = os.listdir(self._directory / directory)  # noqa: PTH208 # thrice as fast
            return sorted(name for name in names if not name.startswith("."))
        return []

    def remove_leftovers(self, directory: str) -> int:
        removed = 0
        with suppress(FileNotFoundError):
            for path in (self._directory / directory).glob(".*"):
                # A writer that loses its file after so long reports that the ledger is away.
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                        path.unlink()
                        removed += 1
        return removed


class RemoteObjects:
    """Objects in a remote store of fsspec. A request to the store writes an object as a whole."""

    def __init__(self, file_system: Any, base: str) -> None:
        self._files = file_system
        self._base = base
        self._has_conditional_create = _has_conditional_create(file_system)

    def create(self, name: str, content: bytes) -> None:
        path = f"{self._base}/{name}"
        self._files.invalidate_cache()
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if self._has_conditional_create:
            self._files.pipe_file(path, content, mode="create")
            return
        # The data lock excludes other writers of this installation between the two calls.
        if self._files.exists(path):
            raise FileExistsError(name)
        self._files.pipe_file(path, content)

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        paths = {f"{self._base}/{name}": name for name in names}
        results = self._files.cat(list(paths), on_error="return")
        if isinstance(results, bytes):
            results = {next(iter(paths)): results}
        contents = {}
        for path, name in paths.items():
            result = results[path]
            if isinstance(result, bytes):
                contents[name] = result
            elif not isinstance(result, FileNotFoundError):
                raise result
        return contents

    def exists(self, name: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.exists(f"{self._base}/{name}"))

    def names(self, directory: str) -> list[str]:
        self._files.invalidate_cache()
        with suppress(FileNotFoundError):
            paths = self._files.ls(f"{self._base}/{directory}", detail=False)
            return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return []

    def remove_leftovers(self, directory: str) -> int:
        del directory  # The store itself removes what a broken request left.
        return 0


class BoundedObjects:
    """Objects of another store, whose calls fail with TimeoutError after some seconds.

    A writer holds the data lock meanwhile, and a network file system can block for ever. While a
    late call still runs, further calls fail at once.
    """

    def __init__(self, objects: LedgerObjects, seconds: float) -> None:
        self._objects = objects
        self._seconds = seconds
        self._late: Future[Any] | None = None

    def create(self, name: str, content: bytes) -> None:
        self._call(lambda: self._objects.create(name, content))

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        return self._call(lambda: self._objects.read(names))

    def exists(self, name: str) -> bool:
        return self._call(lambda: self._objects.exists(name))

    def names(self, directory: str) -> list[str]:
        return self._call(lambda: self._objects.names(directory))

    def remove_leftovers(self, directory: str) -> int:
        return self._call(lambda: self._objects.remove_leftovers(directory))

    def _call(self, action: Callable[[], _Result]) -> _Result:
        if self._late is not None and not self._late.done():
            raise TimeoutError("an earlier call to the ledger has not ended")
        result: Future[_Result] = Future()
        # A daemon, so that a call that never ends does not keep the process alive.
        threading.Thread(target=_run, args=(action, result), daemon=True).start()
        try:
            return result.result(self._seconds)
        except TimeoutError:
            if not result.done():
                self._late = result
            raise


def _run(action: Callable[[], _Result], result: Future[_Result]) -> None:
    try:
        result.set_result(action())
    except BaseException as error:  # noqa: BLE001 # raised again in the thread that waits
        result.set_exception(error)


def _create_directories(path: Path) -> None:
    """Create the directory and its missing parents durably, for their owner only."""
    if path.is_dir():
        return
    _create_directories(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=stat.S_IRWXU)
        sync(path.parent)


def _has_conditional_create(file_system: Any) -> bool:
    """Return whether the store's `pipe_file` knows the mode `create`; s3fs, gcsfs and adlfs do.

    An implementation that ignores the mode would replace the object.
    """
    while hasattr(file_system, "fs"):  # A directory of another file system.
        file_system = file_system.fs
    method = getattr(file_system, "_pipe_file", file_system.pipe_file)
    parameters = inspect.signature(method).parameters
    # MemoryFileSystem and others inherit the parameter's name; all of them call it `mode`.
    return "mode" in parameters
