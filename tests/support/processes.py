"""Watch other threads and processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
#: How long tests wait for another process. Machines of CI stop for tens of seconds at times.
PATIENCE_SECONDS = 200.0

#: Starts `lethe …` with the arguments given.
Lethe = Callable[..., subprocess.Popen[bytes]]


def wait_until(condition: Callable[[], bool], why: str) -> None:
    """Wait until another thread or process makes the condition true, or fail with `why`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out: {why}")
        time.sleep(0.02)


def processes_of(home: Path | str) -> list[psutil.Process]:
    """Return every process that works on this LETHE_HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LETHE_HOME") == str(home) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found
