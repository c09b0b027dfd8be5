"""What a method would teach its student: the teachers' own margins on the forget rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.setting import load_calibration, load_root, read_json, write_json
from models.training.step import DivergedError
from models.unlearning.base import UnlearningTask
from models.unlearning.registry import METHODS, get_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from benchmarks.unlearning.setting import Setting
    from models.runtime.progress import Progress


@runtime_checkable
class Teaching(Protocol):
    """A method that can show what it would teach."""

    def teacher_margins(self, task: UnlearningTask, progress: Progress) -> dict[str, torch.Tensor]:
        """Return the [F] margins of each of its teachers on the forget rows, by name."""


def teaching(methods: Sequence[str]) -> list[str]:
    """Return those that have teachers; raises BenchmarkInputError where none has."""
    found = [name for name in methods if isinstance(get_method(name), Teaching)]
    if not found:
        known = ", ".join(name for name in sorted(METHODS) if isinstance(METHODS[name](), Teaching))
        raise BenchmarkInputError(f"None of these methods has a teacher. Choose of: {known}.")
    return found


def teachers_place(setting: Setting, method: str, seed: int) -> Path:
    """Return where the margins of a method's teachers lie."""
    return setting.out / "teachers" / f"{method}-{seed}.json"


def make_teachers(setting: Setting, name: str, seed: int, progress: Progress) -> None:
    """Make a method's teachers and keep their margins by name; raises DivergedError."""
    method = get_method(name)
    if not isinstance(method, Teaching):
        raise BenchmarkInputError(f"{name} has no teacher.")
    original, _ = load_root(setting, method, seed)
    expected, _ = load_calibration(setting, method, seed)
    task = UnlearningTask(
        recommender=original,
        prepared=setting.case.batch,
        expected=expected,
        recipe=setting.recipe.seeded(seed),
        seed=seed,
    )
    found = {name: each.double() for name, each in method.teacher_margins(task, progress).items()}
    if not all(each.isfinite().all() for each in found.values()):
        raise DivergedError(DivergedError.__doc__)
    kept = {name: each.tolist() for name, each in found.items()}
    write_json(teachers_place(setting, name, seed), kept)


def load_teachers(setting: Setting, method: str, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the kept [F] margins by name."""
    kept = read_json(teachers_place(setting, method, seed))
    return {name: np.array(each, np.float64) for name, each in kept.items()}
