"""Units that behave as no unit should; a process of its own must be able to import them."""

# ruff: noqa: ARG002 -- what a unit is given, these have no use for
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
    """Its loss is no number."""

    def make(self, setting: Setting, progress: Progress) -> None:
        raise DivergedError(DivergedError.__doc__)


class Broken(Unit):
    """It has a fault."""

    def make(self, setting: Setting, progress: Progress) -> None:
        raise KeyError("weights")


class Killed(Unit):
    """The kernel takes its memory away."""

    def make(self, setting: Setting, progress: Progress) -> None:
        progress(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


class Talking(Unit):
    """It prints where only the command may, and says how many threads it has."""

    def make(self, setting: Setting, progress: Progress) -> None:
        sys.stdout.write("a library's greeting\n")
        progress(torch.get_num_threads() / 4)


class Telling(Unit):
    """It writes down where it would keep packaged backbones."""

    def make(self, setting: Setting, progress: Progress) -> None:
        write_json(setting.out / "told.json", {"backbones": str(cache_directory())})


class Endless(Unit):
    """It writes down its process id and never ends."""

    def make(self, setting: Setting, progress: Progress) -> None:
        setting.out.mkdir(parents=True, exist_ok=True)
        (setting.out / "pid").write_text(str(os.getpid()))
        progress(0.25)
        while True:
            time.sleep(0.05)
