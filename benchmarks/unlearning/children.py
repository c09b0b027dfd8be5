"""Run each unit of a benchmark in a separate process with one thread.

Times and memory are then independent of other units, and a crash ends only one unit. The processes
are forked from a server that has loaded only the libraries. They ignore Ctrl-C, which the command
handles, and end when the command ends. Their standard output goes to standard error, because the
command writes its JSON document to standard output.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks.unlearning.errors import UnitFailedError
from models.backbones.packaged import cache_directory, set_cache_directory
from models.training.distributed import end_with_parent
from models.training.step import DivergedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.unlearning.setting import Setting
    from benchmarks.unlearning.units import Unit

#: Modules that take seconds to import. Only libraries: the server may not find this checkout.
PRELOAD: Final = [
    "scipy.stats",
    "torch",
    "transformers.models.llama.modeling_llama",
    "peft",
    "safetensors.torch",
]
#: Minimum seconds between two progress messages of a process.
REPORT_SECONDS: Final = 0.1
#: Maximum seconds between two calls of `on_progress`.
POLL_SECONDS: Final = 0.5
#: Seconds that a process may take to end after its work is done.
_EXIT_SECONDS: Final = 10.0
_STDOUT, _STDERR = 1, 2


def make_in_process(unit: Unit, setting: Setting, on_progress: Callable[[float], None]) -> None:
    """Make a unit in a separate process and call `on_progress` at least twice a second.

    Raises UnitFailedError with the cause. An exception from `on_progress` ends the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    _start_server()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(unit, setting.bare(), cache_directory(), sender), name=unit.title()
    )
    try:
        with _deferred_signals():
            process.start()
        sender.close()
        _follow(process, receiver, on_progress)
        process.join(_EXIT_SECONDS)
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        process.close()
        receiver.close()


def _follow(process: Any, receiver: Connection, on_progress: Callable[[float], None]) -> None:
    fraction = 0.0
    while True:
        on_progress(fraction)
        connection.wait([receiver, process.sentinel], POLL_SECONDS)
        # Read in this order, because the last message may arrive just before the process ends.
        ended = not process.is_alive()
        kind, value = _receive(receiver)
        if kind == "done":
            return
        if kind == "failed":
            raise UnitFailedError(value)
        if kind == "progress":
            fraction = value
        elif ended or kind == "closed":
            process.join()
            raise UnitFailedError(_describe_exit(process.exitcode))


def _receive(receiver: Connection) -> tuple[str, Any]:
    """Return the kind and value of the next message, or ("nothing", None)."""
    try:
        return receiver.recv() if receiver.poll() else ("nothing", None)
    except (EOFError, OSError):
        return "closed", None


def _describe_exit(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"the process was ended by {name}, which may mean that the memory ran out"
    return f"the process ended with status {status}"


def _work(unit: Unit, setting: Setting, backbones: Path, sender: Connection) -> None:
    """Make the unit; the main function of the process."""
    set_cache_directory(backbones)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    os.dup2(_STDERR, _STDOUT)
    torch.set_num_threads(1)
    # By default, progress bars of libraries share a lock between processes, which Python reports as
    # leaked when a process is killed. A thread lock is enough, because no bar is shared.
    tqdm.set_lock(threading.RLock())
    reported_at = 0.0

    def progress(fraction: float) -> None:
        nonlocal reported_at
        now = time.monotonic()
        if now - reported_at >= REPORT_SECONDS:
            reported_at = now
            sender.send(("progress", fraction))

    try:
        unit.make(setting, progress)
    except Exception as error:  # noqa: BLE001 -- a failing method must not end the benchmark
        if not isinstance(error, DivergedError):
            traceback.print_exc()
        sender.send(("failed", _message(error)))
    else:
        sender.send(("done", None))


def _message(error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    is_clear = isinstance(error, (DivergedError, MemoryError))
    return message if is_clear else f"{type(error).__name__}: {message}"


def _start_server() -> None:
    """Start the server with SIGINT ignored, which its processes inherit."""
    with _handled(signal.SIG_IGN, signal.SIGINT):
        forkserver.ensure_running()


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer SIGINT and SIGTERM: a process that receives half of its task prints a traceback."""
    received: list[int] = []
    with _handled(lambda number, _frame: received.append(number), signal.SIGINT, signal.SIGTERM):
        yield
    for number in received:
        signal.raise_signal(number)


@contextmanager
def _handled(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle signals with `handler` in the block; a no-op outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)
