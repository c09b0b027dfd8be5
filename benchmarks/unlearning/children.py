"""Runs every unit in a process of its own, on one thread: clean clocks, clean memory, no crash.

The processes are forked from a server that has loaded the libraries and nothing else. They never
hear Ctrl-C, which is the command's to act on, and they end with it, however it ends. What a
library prints goes to standard error: standard output is the command's.
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
from models.training.step import DivergedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.unlearning.setting import Setting
    from benchmarks.unlearning.units import Unit

#: What takes seconds to import. Only libraries: the server's path need not be this checkout's.
PRELOAD: Final = [
    "scipy.stats",
    "torch",
    "transformers.models.llama.modeling_llama",
    "peft",
    "safetensors.torch",
]
#: How often a process tells how far it is, and how often the command looks, in seconds.
TELL_EVERY: Final = 0.1
EVALUATE_EVERY: Final = 0.5
#: How long a process whose work is done may take to end, in seconds.
_TO_END: Final = 10.0
_STDOUT, _STDERR = 1, 2


def make_apart(unit: Unit, setting: Setting, look: Callable[[float], None]) -> None:
    """Make a unit in a process of its own; `look` hears how far it is, at least twice a second.

    Raises UnitFailedError with what went wrong. Whatever `look` raises ends the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    _start_server()
    mine, its = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(unit, setting.bare(), cache_directory(), its), name=unit.title()
    )
    try:
        with _undisturbed():
            process.start()
        its.close()
        _follow(process, mine, look)
        process.join(_TO_END)
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        process.close()
        mine.close()


def _follow(process: Any, told: Connection, look: Callable[[float], None]) -> None:
    fraction = 0.0
    while True:
        look(fraction)
        connection.wait([told, process.sentinel], EVALUATE_EVERY)
        # Asked in this order, for its last words may come just before its end.
        ended = not process.is_alive()
        kind, value = _hear(told)
        if kind == "done":
            return
        if kind == "failed":
            raise UnitFailedError(value)
        if kind == "progress":
            fraction = value
        elif ended or kind == "closed":
            process.join()
            raise UnitFailedError(_why_it_ended(process.exitcode))


def _hear(told: Connection) -> tuple[str, Any]:
    """Return the next word and its value, if there is one yet."""
    try:
        return told.recv() if told.poll() else ("nothing", None)
    except (EOFError, OSError):
        return "closed", None


def _why_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"its process was ended by {name}; {name} may mean that the memory ran out"
    return f"its process ended with status {status}"


def _work(unit: Unit, setting: Setting, backbones: Path, told: Connection) -> None:
    """Make the unit: what the process does."""
    set_cache_directory(backbones)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    os.dup2(_STDERR, _STDOUT)
    torch.set_num_threads(1)
    # Bars of libraries take a lock that all processes share, which Python reports as leaked where
    # a process is killed; nobody shares a bar here.
    tqdm.set_lock(threading.RLock())
    heard = 0.0

    def progress(fraction: float) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= TELL_EVERY:
            heard = now
            told.send(("progress", fraction))

    try:
        unit.make(setting, progress)
    except Exception as error:  # noqa: BLE001 -- one method's fault must not end the others
        if not isinstance(error, DivergedError):
            traceback.print_exc()
        told.send(("failed", _words(error)))
    else:
        told.send(("done", None))


def _words(error: Exception) -> str:
    words = str(error).strip() or type(error).__name__
    named = isinstance(error, (DivergedError, MemoryError))
    return words if named else f"{type(error).__name__}: {words}"


def _end_with_the_command() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _start_server() -> None:
    """Start the server with SIGINT ignored, which it and all its processes inherit."""
    with _handled(signal.SIG_IGN, signal.SIGINT):
        forkserver.ensure_running()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Act on a signal only afterwards: a process that gets half of what to do leaves a trace."""
    heard: list[int] = []
    with _handled(lambda number, _frame: heard.append(number), signal.SIGINT, signal.SIGTERM):
        yield
    for number in heard:
        signal.raise_signal(number)


@contextmanager
def _handled(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle these signals otherwise for a while; threads other than the main one hear none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
