"""Several processes train one model: started, listened to, and ended together.

Each is a fresh interpreter on this machine with a GPU of its own, or on the CPU; `accelerate` joins
them (NCCL or gloo). Its launchers are not used: they fork, which neither threads nor CUDA survive,
or write to standard output. What a process is given and gives back goes through pipes, so that
nobody's data lies in a file. Knows processes; what they do is the caller's.
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

    from models.training.trainer import Progress

    #: A process, and the end of its pipe that the parent reads.
    _Started = tuple[SpawnProcess, Connection]

#: How often whoever waits for the processes may interrupt them, in seconds.
POLL: Final = 0.5
_HOST: Final = "127.0.0.1"
#: What a process tells its parent: how far it is, what it made, or why it could not.
_MOVED, _DONE, _FAILED = "moved", "done", "failed"

Given = TypeVar("Given")
Made = TypeVar("Made")


class TrainingProcessError(RuntimeError):
    """One of the processes that train together ended without a result."""

    def __init__(self, rank: int, status: int | None) -> None:
        """Say which one, and how."""
        ended = f"by signal {-status}" if status is not None and status < 0 else f"with {status}"
        super().__init__(
            f"training process {rank} ended {ended}, without a result. Look at the worker's log;"
            " after signal 9 give the machine more memory, or set LETHE_TRAIN_PROCESSES lower."
        )


def together(
    work: Callable[[Given, ProcessGroup, Progress], Made],
    given: Given,
    processes: int,
    progress: Progress,
) -> Made:
    """Return what `work`, a function of a module, gives in the first of several processes.

    `progress` gets the first one's, and is also called while nothing moves: where it raises, all
    processes end. An error in any of them ends them all and is raised here. Raises
    TrainingProcessError where one dies.
    """
    payload = pickle.dumps((work, given, devices.machine(), torch.get_num_threads()))
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    started: list[_Started] = []
    try:
        for rank in range(processes):
            receiver, sender = spawn.Pipe(duplex=False)
            place = _environment(rank, processes, store.port)
            process = spawn.Process(target=_child, args=(place, payload, sender), daemon=True)
            process.start()
            sender.close()  # So that the pipe ends when the process does.
            started.append((process, receiver))
        made: Made = _listen(started, progress)
    finally:
        for process, receiver in started:
            process.kill()
            process.join()
            receiver.close()
    return made


def _listen(started: list[_Started], progress: Progress) -> Any:
    """Hear the processes until all are done; return what the first one made."""
    waiting = {receiver.fileno(): rank for rank, (_, receiver) in enumerate(started)}
    fraction, made = 0.0, None
    while waiting:
        heard = []
        for descriptor in wait(list(waiting), timeout=POLL):
            rank = waiting[cast("int", descriptor)]
            process, receiver = started[rank]
            try:
                heard.append((rank, *pickle.loads(receiver.recv_bytes())))  # noqa: S301 -- ours
            except (EOFError, OSError) as error:
                # Before any word of the others: theirs is of having lost this one.
                process.join()
                raise TrainingProcessError(rank, process.exitcode) from error
        for rank, kind, value in heard:
            if kind == _FAILED:
                raise value
            if kind == _MOVED:
                fraction = value
            if kind == _DONE:
                made = value if rank == 0 else made
                del waiting[started[rank][1].fileno()]
        progress(fraction)
    return made


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return what tells torch and accelerate the place of a process, and where all of them meet."""
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {
        **loopback,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        # The parent holds the store already: no port has to be guessed.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _child(place: Mapping[str, str], payload: bytes, sender: Connection) -> None:
    """Do this process's part, and say how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides when to end.
    _end_with_parent()
    os.environ.update(place)
    rank = int(place["RANK"])

    def tell(kind: str, value: object) -> None:
        # Not `send`, with which torch leaves tensors to a process that may be gone when it is read.
        sender.send_bytes(pickle.dumps((kind, value)))

    def moved(fraction: float) -> None:
        if rank == 0:
            tell(_MOVED, fraction)

    try:
        work, given, machine, threads = pickle.loads(payload)  # noqa: S301 -- the parent wrote it
        torch.set_num_threads(threads)
        state = PartialState(cpu=machine.device.type == "cpu")
        devices.use(replace(machine, device=state.device, processes=1))
        made = work(given, ProcessGroup(rank=rank, size=state.num_processes), moved)
        state.wait_for_everyone()
        destroy_process_group()
        tell(_DONE, made if rank == 0 else None)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the parent raises it
        tell(_FAILED, _portable(error))
        # Were this process gone, the others' word of that might come first.
        threading.Event().wait()


def _portable(error: Exception) -> Exception:
    """Return an error that another process can read: itself, or what it says."""
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- written in the same line
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """End this process when its parent is gone, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
