"""Compute and save the margins of a method's teachers on the forget rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.setting import load_root, read_json, unlearning_task, write_json
from models.training.step import DivergedError
from models.unlearning.registry import METHODS, get_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from benchmarks.unlearning.setting import Setting
    from models.runtime.progress import Progress
    from models.unlearning.base import UnlearningTask


@runtime_checkable
class MethodWithTeachers(Protocol):
    """Unlearning method that can return the margins of its teachers."""

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the [F] margins of each teacher on the forget rows, by name."""


def methods_with_teachers(methods: Sequence[str]) -> list[str]:
    """Return the methods that have teachers; raises BenchmarkInputError if there are none."""
    names = [name for name in methods if isinstance(get_method(name), MethodWithTeachers)]
    if not names:
        known = ", ".join(
            name for name in sorted(METHODS) if isinstance(METHODS[name](), MethodWithTeachers)
        )
        raise BenchmarkInputError(f"None of these methods has a teacher. Choose from: {known}.")
    return names


def teachers_path(setting: Setting, method: str, seed: int) -> Path:
    """Return the file with the margins of a method's teachers."""
    return setting.out / "teachers" / f"{method}-{seed}.json"


def make_teachers(setting: Setting, name: str, seed: int, progress: Progress) -> None:
    """Train a method's teachers and save their margins by name; raises DivergedError."""
    method = get_method(name)
    if not isinstance(method, MethodWithTeachers):
        raise BenchmarkInputError(f"{name} has no teacher.")
    original, _ = load_root(setting, method, seed)
    task = unlearning_task(setting, method, seed, original, setting.case.batch)
    margins_by_name = {
        teacher: margins.double()
        for teacher, margins in method.teacher_margins(task, progress).items()
    }
    if not all(margins.isfinite().all() for margins in margins_by_name.values()):
        raise DivergedError(DivergedError.__doc__)
    lists = {teacher: margins.tolist() for teacher, margins in margins_by_name.items()}
    write_json(teachers_path(setting, name, seed), lists)


def load_teachers(setting: Setting, method: str, seed: int) -> dict[str, NDArray[np.float64]]:
    """Load the saved [F] margins by name."""
    lists = read_json(teachers_path(setting, method, seed))
    return {name: np.array(margins, np.float64) for name, margins in lists.items()}
