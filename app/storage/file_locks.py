"""Locks on files of this machine, which the kernel releases when their process ends.

A lock says that a living process uses files: a reader of a copy, or a claim of a job. A suspended
process keeps its locks. Lock files are empty, and are removed by the process that takes the lock
exclusively.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold the lock together with other holders until the end of the block."""
    descriptor = _locked(path, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Yield whether no process holds the lock; if so, hold it until the end of the block."""
    descriptor = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(path: Path, operation: int) -> int | None:
    """Return a descriptor that holds the lock, or None if another process prevents it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # Another process removed the file between the two calls: that lock excludes no one.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
