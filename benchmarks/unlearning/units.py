"""Units: the parts of a benchmark that are made once and saved, and their order.

A unit is a first release (`root`), its `calibration`, a `run`, a `shadow` model, or the margins of
a method's `teachers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from benchmarks.unlearning.names import ORIGINAL, RETRAIN
from benchmarks.unlearning.results import MIN_RETRAIN_RUNS
from benchmarks.unlearning.runs import SHADOW, make_run, make_shadow
from benchmarks.unlearning.setting import (
    calibrate_root,
    has_root,
    read_json,
    train_root,
    write_json,
)
from benchmarks.unlearning.teaching import make_teachers, teachers_path
from models.unlearning.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.unlearning.setting import Setting
    from models.runtime.progress import Progress

Kind = Literal["root", "calibration", "run", "shadow", "teachers"]
#: The method in whose name the first releases of Retrain and Original are trained.
_PLAIN: Final = RETRAIN
_TITLES: Final = {
    "root": "{method}, seed {seed}: first release",
    "calibration": "{method}, seed {seed}: calibration",
    "run": "{method}, seed {seed}",
    "shadow": "shadow {seed}",
    "teachers": "{method}'s teachers, seed {seed}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Part of a benchmark. Methods with the same `root` share the unit of the first release."""

    kind: Kind
    method: str
    seed: int

    def title(self) -> str:
        """Return the name of the unit for the progress display."""
        return _TITLES[self.kind].format(method=self.method, seed=self.seed)

    def is_finished(self, setting: Setting) -> bool:
        """Return whether the unit's result exists; a failed run is not finished."""
        method = get_method(self.method)
        if self.kind == "root":
            return has_root(setting, method, self.seed)
        if self.kind == "calibration":
            path = setting.calibration_path(method, self.seed)
            # Files of earlier versions lack the memorization.
            return path.exists() and "memorization" in read_json(path)
        if self.kind == "teachers":
            return teachers_path(setting, self.method, self.seed).exists()
        name = SHADOW if self.kind == "shadow" else self.method
        path = setting.run_path(name, self.seed)
        return path.exists() and "error" not in read_json(path)

    def make(self, setting: Setting, progress: Progress) -> None:
        """Make and save the unit; the required units must be finished."""
        method = get_method(self.method)
        if self.kind == "root":
            train_root(setting, method, self.seed, progress)
        elif self.kind == "calibration":
            calibrate_root(setting, method, self.seed, progress)
        elif self.kind == "teachers":
            make_teachers(setting, self.method, self.seed, progress)
        elif self.kind == "shadow":
            make_shadow(setting, self.seed, progress)
        else:
            make_run(setting, self.method, self.seed, progress)

    def is_essential(self) -> bool:
        """Return whether every comparison needs the unit."""
        return self.method == RETRAIN and self.kind in {"root", "run"}

    def save_failure(self, setting: Setting, error: str) -> None:
        """Save the error of a failed run in place of its figures."""
        if self.kind == "run":
            failed = {"method": self.method, "seed": self.seed, "error": error}
            write_json(setting.run_path(self.method, self.seed), failed)


def comparison_units(
    methods: Sequence[str],
    seeds: int,
    shadows: int,
    retrain_runs: int = MIN_RETRAIN_RUNS,
    seeds_of: Mapping[str, int] | None = None,
) -> list[Unit]:
    """Return the units of a comparison, each after the units that it requires.

    `seeds_of` has the numbers of runs of methods that differ from `seeds`. The seeds of the shadow
    models follow those of the Retrain runs.
    """
    counts = {method: (seeds_of or {}).get(method, seeds) for method in methods}
    count = max(MIN_RETRAIN_RUNS, retrain_runs, *counts.values())
    units = [Unit(kind="run", method=RETRAIN, seed=seed) for seed in range(count)]
    units += [
        Unit(kind="shadow", method=RETRAIN, seed=seed) for seed in range(count, count + shadows)
    ]
    units += [
        Unit(kind="run", method=method, seed=seed)
        for seed in range(max(counts.values()))
        for method in methods
        if method != RETRAIN and seed < counts[method]
    ]
    return _with_required(units)


def teacher_units(methods: Sequence[str], seeds: int) -> list[Unit]:
    """Return the units of an evaluation of the methods' teachers, in order."""
    units = comparison_units([ORIGINAL], seeds, 0)
    units += [
        Unit(kind="teachers", method=method, seed=seed)
        for seed in range(seeds)
        for method in methods
    ]
    return _with_required(units)


def required_units(unit: Unit) -> Iterator[Unit]:
    """Yield the units that must be finished before the unit is made."""
    if unit.kind not in {"run", "teachers"}:
        return
    method = get_method(unit.method)
    plain = get_method(_PLAIN)
    owner = _PLAIN if method.root == plain.root else unit.method
    yield Unit(kind="root", method=owner, seed=unit.seed)
    if method.calibrated:
        yield Unit(kind="calibration", method=unit.method, seed=unit.seed)


def _with_required(units: Sequence[Unit]) -> list[Unit]:
    ordered: dict[Unit, None] = {}
    for unit in units:
        ordered.update(dict.fromkeys(required_units(unit)))
        ordered[unit] = None
    return list(ordered)
