"""Set the priority of a worker process and stop the process within seconds of a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from app.parent_watch import exit_after

if TYPE_CHECKING:
    from threading import Event
    from types import FrameType

#: After this time a worker process that was asked to stop exits without cleanup, in seconds.
GRACE_SECONDS: Final = 5.0


def be_nice(niceness: int) -> None:
    """Raise the niceness of this process to at least `niceness`, so that serving goes first."""
    with contextlib.suppress(OSError):
        present = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(present, niceness))


def stop_on_signals(stop: Event) -> None:
    """Set `stop` at SIGTERM or SIGINT, and exit if the process outlives the grace period.

    The forced exit is safe: like kill -9, it lets the job's lease expire.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            exit_after(GRACE_SECONDS)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
