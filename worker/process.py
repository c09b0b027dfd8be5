"""How a worker process behaves towards its machine: polite, and gone within seconds when told."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

#: A step that does not look up within this time after a stop is cut off, in seconds.
GRACE: Final = 5.0


def be_nice(niceness: int) -> None:
    """Lower this process's priority to `niceness`: serving goes first. It is never raised."""
    with contextlib.suppress(OSError):
        present = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(present, niceness))


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM or SIGINT, and cut the process off if it does not end in time.

    Being cut off is safe: it is what kill -9 does, and the job's lease then runs out by itself.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            request_stop(stop)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def stop_with_parent(stop: threading.Event) -> None:
    """Set `stop` once standard input ends, as it does when the parent process is gone."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        request_stop(stop)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def request_stop(stop: threading.Event) -> None:
    """Ask the work to end now, and make sure that the process does."""
    stop.set()
    cut_off = threading.Timer(GRACE, os._exit, args=(1,))
    cut_off.daemon = True
    cut_off.start()
