"""The demo's own data directory, made afresh for every run. Nothing else is ever deleted."""

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
    """{path} holds what is not the demo's and is left alone. Set LETHE_HOME to a new directory."""


class DemoRunningError(CommandError):
    """Another demo is running in {path}. Stop it with Ctrl-C, or set LETHE_HOME elsewhere."""


def demo_path() -> Path:
    """Return LETHE_HOME where it is set, else a directory beside the checkout's files."""
    return Path(os.environ.get("LETHE_HOME") or _DEFAULT).expanduser().absolute()


@contextlib.contextmanager
def fresh_home(path: Path) -> Iterator[Path]:
    """Empty the demo's directory, or make it, and hold it against a second demo.

    Only a directory with the demo's marker is emptied; a link to one is refused.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ForeignDirectoryError(path=path)
    marker = path / MARKER
    if path.exists() and any(path.iterdir()) and not marker.is_file():
        raise ForeignDirectoryError(path=path)
    path.mkdir(parents=True, exist_ok=True)
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoRunningError(path=path) from error
        # The marker stays throughout: a run that is cut off here leaves a directory that the next
        # one may empty.
        for entry in path.iterdir():
            if entry.name == MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield path
