"""Child processes that end when the command that started them ends.

Each child has its own session, so that Ctrl-C reaches only the command, which then stops its
children in order. A child's standard input is a pipe that the command holds open. The pipe closes
when the command dies, even by kill -9, and the child ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

#: The checkout or the image's working directory, which contains `worker` and `models`.
ROOT: Final = Path(__file__).parents[2]
#: Seconds that all children together may take to end before they are killed.
GRACE: Final = 8.0


def module_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with these variables and a path to Lethe's packages."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **variables, "PYTHONPATH": path}


@dataclass(slots=True, kw_only=True)
class Child:
    """A Python module run as a process. It may be started again after it has ended."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The log file; None: the command's own standard error.
    log: Path | None = None
    pass_fds: tuple[int, ...] = ()
    pipe_stdout: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process with the command's environment and `environment`."""
        if self._process is not None:
            self._close_pipes()
        with contextlib.ExitStack() as stack:
            log: IO[bytes] | None = None
            if self.log is not None:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and modules
                [sys.executable, "-m", self.module, *self.arguments],
                env=module_environment(**self.environment),
                stdin=subprocess.PIPE,
                # The command's standard output is reserved for its JSON document.
                stdout=subprocess.PIPE if self.pipe_stdout else log or sys.stderr.fileno(),
                stderr=log,
                start_new_session=True,
                pass_fds=self.pass_fds,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"the {self.name} has not been started")
        return self._process

    def exit_status(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Send SIGTERM and close the child's standard input."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            if process.stdin is not None:
                process.stdin.close()

    def kill(self) -> None:
        """Kill the child's process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Children:
    """Context manager that stops all children of a command and waits for them."""

    def __init__(self, *, second_interrupt_kills: bool = False) -> None:
        """With `second_interrupt_kills`, a signal while the children stop kills them at once."""
        self._children: list[Child] = []
        self._second_interrupt_kills = second_interrupt_kills

    def start(self, child: Child) -> Child:
        """Start a child and stop it when the block ends."""
        self._children.append(child)
        child.start()
        return child

    def stop(self, *children: Child) -> None:
        """Stop the given children in parallel; kill those that take longer than GRACE."""
        for child in children:
            child.terminate()
        deadline = time.monotonic() + GRACE
        for child in children:
            if child._process is not None:  # noqa: SLF001 -- the same module
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, deadline - time.monotonic()))
            child.kill()
            self._children.remove(child)

    def kill_all(self) -> None:
        """Send SIGKILL to the process groups of all children that still run."""
        for child in self._children:
            if child.exit_status() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        self.kill_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave children running.
        handlers: dict[int, Any] = {
            number: signal.signal(number, self._kill if self._second_interrupt_kills else _ignore)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self.stop(*self._children)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None: ...
