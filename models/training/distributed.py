"""Run one training in several processes on this machine, and collect its result and its errors.

Each process is a fresh interpreter with its own GPU, or on the CPU; `accelerate` joins the
processes (NCCL or gloo). accelerate's own launchers are not used: they fork, which neither threads
nor CUDA survive, or write to standard output. Inputs and results go through pipes, so that no
user data is written to a file.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import torch
from accelerate import PartialState
from torch.distributed import TCPStore, destroy_process_group  # type: ignore[attr-defined] # untyped

from models.runtime import devices
from models.runtime.process_group import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from models.runtime.progress import Progress

    #: A process, and the end of its pipe that the parent reads.
    _Started = tuple[SpawnProcess, Connection]

#: Longest time between two calls of `progress`, which may interrupt the processes, in seconds.
POLL: Final = 0.5
_HOST: Final = "127.0.0.1"
#: Kinds of messages from a process to its parent: progress, result, error.
_PROGRESS, _DONE, _FAILED = "progress", "done", "failed"

Input = TypeVar("Input")
Result = TypeVar("Result")


class TrainingProcessError(RuntimeError):
    """A training process ended without a result."""

    def __init__(self, rank: int, exit_code: int | None) -> None:
        """Name the process and its exit code; a negative exit code is a signal."""
        ended = f"with exit code {exit_code}"
        if exit_code is not None and exit_code < 0:
            ended = f"by signal {-exit_code}"
        super().__init__(
            f"Training process {rank} ended {ended} without a result. See the worker's log;"
            " after signal 9 give the machine more memory, or lower LETHE_TRAIN_PROCESSES."
        )


def run_in_processes(
    work: Callable[[Input, ProcessGroup, Progress], Result],
    argument: Input,
    processes: int,
    progress: Progress,
) -> Result:
    """Call `work` in several processes and return the result of the first process.

    `work` must be a function of a module, because it is pickled. `progress` receives the fractions
    of the first process, and is also called at least every POLL seconds; all processes end where it
    raises. An error in any process ends all of them and is raised by this function. Raises
    TrainingProcessError where a process dies.
    """
    payload = pickle.dumps((work, argument, devices.machine(), torch.get_num_threads()))
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    started: list[_Started] = []
    try:
        for rank in range(processes):
            receiver, sender = spawn.Pipe(duplex=False)
            environment = _environment(rank, processes, store.port)
            process = spawn.Process(target=_child, args=(environment, payload, sender), daemon=True)
            process.start()
            sender.close()  # So that the pipe ends when the process does.
            started.append((process, receiver))
        result: Result = _collect(started, progress)
    finally:
        for process, receiver in started:
            process.kill()
            process.join()
            receiver.close()
    return result


def _collect(started: list[_Started], progress: Progress) -> Any:
    """Read messages until all processes are done; return the result of the first process."""
    ranks = {receiver.fileno(): rank for rank, (_, receiver) in enumerate(started)}
    fraction, result = 0.0, None
    while ranks:
        messages = []
        for descriptor in wait(list(ranks), timeout=POLL):
            rank = ranks[cast("int", descriptor)]
            process, receiver = started[rank]
            try:
                messages.append((rank, *pickle.loads(receiver.recv_bytes())))  # noqa: S301 -- ours
            except (EOFError, OSError) as error:
                # Raised before other messages are read: the other processes only report that they
                # lost this process.
                process.join()
                raise TrainingProcessError(rank, process.exitcode) from error
        for rank, kind, value in messages:
            if kind == _FAILED:
                raise value
            if kind == _PROGRESS:
                fraction = value
            if kind == _DONE:
                result = value if rank == 0 else result
                del ranks[started[rank][1].fileno()]
        progress(fraction)
    return result


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return the variables from which torch and accelerate join the processes."""
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {
        **loopback,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        # The parent already holds the store, so that no port has to be guessed.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _child(environment: Mapping[str, str], payload: bytes, sender: Connection) -> None:
    """Run this process's share of the work, and send its progress and its result or error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides when to end.
    end_with_parent()
    os.environ.update(environment)
    rank = int(environment["RANK"])

    def send(kind: str, value: object) -> None:
        # `Connection.send` shares a tensor's storage, which is gone if this process ends first.
        sender.send_bytes(pickle.dumps((kind, value)))

    def report(fraction: float) -> None:
        if rank == 0:
            send(_PROGRESS, fraction)

    try:
        work, argument, machine, threads = pickle.loads(payload)  # noqa: S301 -- from the parent
        torch.set_num_threads(threads)
        state = PartialState(cpu=machine.device.type == "cpu")
        devices.use(replace(machine, device=state.device, processes=1))
        result = work(argument, ProcessGroup(rank=rank, size=state.num_processes), report)
        state.wait_for_everyone()
        destroy_process_group()
        send(_DONE, result if rank == 0 else None)
    except Exception as error:  # noqa: BLE001 -- the parent raises the error
        send(_FAILED, _portable(error))
        # If this process ended, the other processes' errors about it could arrive first.
        threading.Event().wait()


def _portable(error: Exception) -> Exception:
    """Return the error if it survives pickling, else a RuntimeError with its text."""
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- written in the same line
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def end_with_parent() -> None:
    """End this process when its parent ends, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
