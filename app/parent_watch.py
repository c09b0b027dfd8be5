"""Stop a child process when its parent process ends, even by kill -9.

The parent (`app/cli/processes.py`) holds the write end of a pipe that is the child's standard
input, so standard input ends with the parent. Training processes have no such pipe: they are
started by `multiprocessing` and wait on its sentinel (`models/training/distributed.py`).
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def stop_with_parent(stop: Callable[[], None], *, grace_seconds: float) -> None:
    """Call `stop` when standard input ends, and exit if the process outlives the grace period."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        stop()
        exit_after(grace_seconds)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def exit_after(seconds: float) -> None:
    """Exit with status 1, without cleanup, if this process still runs after the given time."""
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()
