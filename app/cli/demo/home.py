"""The demo's data directory, emptied for every run. No other directory is ever deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.cli.failures import BadInputError, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER: Final = ".lethe-demo"
_DEFAULT: Final = Path(".lethe/demo")


class ForeignDirectoryError(BadInputError):
    """{path} is not a directory of the demo, and stays. Set LETHE_HOME to a new directory."""


class DemoRunningError(CommandError):
    """Another demo is running in {path}. Stop it with Ctrl-C, or set LETHE_HOME elsewhere."""


def demo_path() -> Path:
    """Return LETHE_HOME if it is set, else `.lethe/demo` in the working directory."""
    return Path(os.environ.get("LETHE_HOME") or _DEFAULT).expanduser().absolute()


@contextlib.contextmanager
def fresh_home(path: Path) -> Iterator[Path]:
    """Create or empty the demo's directory and lock it against a second demo.

    The directory of its erasure ledger beside it is emptied as well. Only a real directory with the
    demo's marker file is emptied. Raises ForeignDirectoryError or
    DemoRunningError.
    """
    ledger = path.with_name(f"{path.name}-ledger")
    for directory in (path, ledger):
        _check_own(directory)
    path.mkdir(parents=True, exist_ok=True)
    with (path / MARKER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoRunningError(path=path) from error
        # The marker stays, so that the next run may empty the directory if this one is cut off.
        ledger.mkdir(exist_ok=True)
        (ledger / MARKER).touch()
        for directory in (path, ledger):
            _empty(directory)
        yield path


def _check_own(directory: Path) -> None:
    """Raise ForeignDirectoryError unless the directory is new, empty or has the marker file."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ForeignDirectoryError(path=directory)
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).is_file():
        raise ForeignDirectoryError(path=directory)


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
