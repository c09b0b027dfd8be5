"""Start worker processes by forks of a process that has imported the worker's modules.

A new interpreter takes a second of processor time for its imports, and the tests start hundreds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Final

import psutil

from tests.support import blocking_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.blocking_worker"])


class ForkedWorker:
    """A worker process, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the worker. What it writes to stderr goes to a temporary file."""
        descriptor, name = tempfile.mkstemp(prefix="worker-")
        os.close(descriptor)
        self._errors = Path(name)
        self._process = _FORKS.Process(
            target=_run, args=(list(arguments), dict(environment), name), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired("worker", timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[None, bytes]:
        self.wait(timeout)
        return None, self.errors()

    def errors(self) -> bytes:
        """Return what the worker has written to stderr."""
        return self._errors.read_bytes()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def is_suspended(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def close(self) -> None:
        """Kill the worker if it still runs, and remove its temporary file."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        self._process.close()
        self._errors.unlink(missing_ok=True)


def _run(arguments: list[str], environment: dict[str, str], errors: str) -> None:
    """Run the worker in the new process, as the program `blocking_worker.py` does."""
    os.environ.clear()
    os.environ.update(environment)
    with open(errors, "wb", buffering=0) as stream:  # noqa: PTH123 -- a raw stream
        os.dup2(stream.fileno(), 2)
    # Signals end the worker as they end a program in a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    blocking_worker.main(arguments)
