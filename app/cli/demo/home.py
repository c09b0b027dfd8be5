"""The demo's data directory and ledger, emptied for every run. No other directory is deleted."""

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


def ledger_path(home: Path) -> Path:
    """Return the directory of the demo's erasure ledger, beside its data directory."""
    return home.with_name(f"{home.name}-ledger")


@contextlib.contextmanager
def fresh_home(path: Path) -> Iterator[Path]:
    """Create or empty the demo's two directories and lock them against a second demo.

    The directory of its erasure ledger beside it is emptied as well. Only a real directory with the
    demo's marker file is emptied. Raises ForeignDirectoryError or
    DemoRunningError.
    """
    ledger = ledger_path(path)
    for directory in (path, ledger):
        _require_own(directory)
    for directory in (path, ledger):
        directory.mkdir(parents=True, exist_ok=True)
    marker = path / MARKER
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoRunningError(path=path) from error
        (ledger / MARKER).touch()
        for directory in (path, ledger):
            _empty(directory)
        yield path


def _require_own(path: Path) -> None:
    """Raise ForeignDirectoryError unless the path is free or a directory of the demo."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ForeignDirectoryError(path=path)
    if path.exists() and any(path.iterdir()) and not (path / MARKER).is_file():
        raise ForeignDirectoryError(path=path)


def _empty(path: Path) -> None:
    # The marker stays, so that the next run may empty the directory if this one is cut off.
    for entry in path.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
