"""Units that fail or misbehave, in a module that a child process can import."""

# ruff: noqa: ARG002 -- most of these units ignore their arguments
from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import torch

from benchmarks.unlearning.setting import write_json
from benchmarks.unlearning.units import Unit
from models.backbones.packaged import cache_directory
from models.training.step import DivergedError

if TYPE_CHECKING:
    from benchmarks.unlearning.setting import Setting
    from models.runtime.progress import Progress


class Diverging(Unit):
    """Raises DivergedError."""

    def make(self, setting: Setting, progress: Progress) -> None:
        raise DivergedError(DivergedError.__doc__)


class Broken(Unit):
    """Raises KeyError, like a programming error."""

    def make(self, setting: Setting, progress: Progress) -> None:
        raise KeyError("weights")


class Killed(Unit):
    """Kills its own process, like the kernel without memory."""

    def make(self, setting: Setting, progress: Progress) -> None:
        progress(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


class Printing(Unit):
    """Prints to standard output and reports its number of threads as progress."""

    def make(self, setting: Setting, progress: Progress) -> None:
        sys.stdout.write("a library's greeting\n")
        progress(torch.get_num_threads() / 4)


class BackboneDirectory(Unit):
    """Writes the directory of packaged backbones to a file."""

    def make(self, setting: Setting, progress: Progress) -> None:
        write_json(setting.out / "directory.json", {"backbones": str(cache_directory())})


class Endless(Unit):
    """Writes its process id to a file and never ends."""

    def make(self, setting: Setting, progress: Progress) -> None:
        setting.out.mkdir(parents=True, exist_ok=True)
        (setting.out / "pid").write_text(str(os.getpid()))
        progress(0.25)
        while True:
            time.sleep(0.05)
