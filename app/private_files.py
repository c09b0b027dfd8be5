"""Keep the data of an installation from other users of the machine, and write small files whole.

New files get the modes of the umask. Files from before, or made by other programs, are tightened at
the start of each process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.settings import Settings

_log = structlog.get_logger(__name__)

_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def use_private_umask() -> None:
    """Give the files that this process and its children create to their owner only."""
    os.umask(_FOR_OTHERS)


def protect_home(settings: Settings) -> None:
    """Create LETHE_HOME for its owner only, and forbid other users the directory and its files.

    Paths that another user owns, such as a mounted volume, stay as they are.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    except OSError as error:
        raise _unusable(settings.home, error.strerror or str(error)) from error
    if not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(settings.home, "this user cannot write to it")
    for path in _private_paths(settings.home):
        if not make_private(path):
            _log.warning("home_not_private", file=path.name, reason="another user owns the path")


def _unusable(home: Path, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"LETHE_HOME={home} cannot be used: {reason}. Set LETHE_HOME to a directory that this user"
        " can write to."
    )


def make_private(path: Path) -> bool:
    """Forbid other users the path; return False if another user owns the open path.

    A path that does not exist stays so.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    if not status.st_mode & _FOR_OTHERS:
        return True
    if status.st_uid != os.geteuid():
        return False
    path.chmod(stat.S_IMODE(status.st_mode) & ~_FOR_OTHERS)
    _log.info("made_private", file=path.name)
    return True


def create_once(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of the file, and create the file with `make()` if there is none.

    Several processes may call this at the same time. Each writes a temporary file and links it to
    `path`; the link fails if another process was first, and the content of that process is then
    read. A partly written file is never visible.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = write_beside(path, make())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return path.read_bytes()


def write_beside(path: Path, content: bytes) -> Path:
    """Write a complete new file beside `path`, readable by its owner only; return its path."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def sync(path: Path) -> None:
    """Flush the file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private_paths(home: Path) -> Iterator[Path]:
    """Yield the home, its databases, logs and keys, and its directories with artifacts."""
    yield home
    for name in ("artifacts", "cache", "keys", "logs"):
        yield home / name
    # The home protects what is in it; these files stay private if an operator opens the home.
    for pattern in ("lethe.db*", "keys/*", "logs/*.log"):
        yield from sorted(home.glob(pattern))
