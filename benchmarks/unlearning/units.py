"""The work of a benchmark in pieces that are made once and kept, and the order to make them in.

A unit is a first release (`root`), its `calibration`, a `run`, a `shadow` or a look at `teachers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from benchmarks.unlearning.measures import ORIGINAL, RETRAIN
from benchmarks.unlearning.results import LEAST_RETRAINED
from benchmarks.unlearning.runs import SHADOW, make_run, make_shadow
from benchmarks.unlearning.setting import (
    calibrate_root,
    has_root,
    read_json,
    train_root,
    write_json,
)
from benchmarks.unlearning.teaching import make_teachers, teachers_place
from models.unlearning.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.unlearning.setting import Setting
    from models.runtime.progress import Progress

Kind = Literal["root", "calibration", "run", "shadow", "teachers"]
#: The method whose first releases are trained for Retrain and Original.
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
    """One piece. `method` is that of whose kind it is; methods of one root share its root."""

    kind: Kind
    method: str
    seed: int

    def title(self) -> str:
        """Return what people read while it is made."""
        return _TITLES[self.kind].format(method=self.method, seed=self.seed)

    def finished(self, setting: Setting) -> bool:
        """Say whether it is there; what failed is made again at the next start."""
        method = get_method(self.method)
        if self.kind == "root":
            return has_root(setting, method, self.seed)
        if self.kind == "calibration":
            return setting.calibration_place(method, self.seed).exists()
        if self.kind == "teachers":
            return teachers_place(setting, self.method, self.seed).exists()
        name = SHADOW if self.kind == "shadow" else self.method
        place = setting.run_place(name, self.seed)
        return place.exists() and "error" not in read_json(place)

    def make(self, setting: Setting, progress: Progress) -> None:
        """Make and keep it; what it stands on must be there."""
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

    def essential(self) -> bool:
        """Say whether nothing can be compared without it."""
        return self.method == RETRAIN and self.kind in {"root", "run"}

    def note_failure(self, setting: Setting, error: str) -> None:
        """Keep what went wrong in the place of a run."""
        if self.kind == "run":
            failed = {"method": self.method, "seed": self.seed, "error": error}
            write_json(setting.run_place(self.method, self.seed), failed)


def retrained(seeds: int) -> int:
    """Return how many Retrain runs there are: at least four, for the noise floor."""
    return max(LEAST_RETRAINED, seeds)


def comparison(methods: Sequence[str], seeds: int, shadows: int) -> list[Unit]:
    """Return what a table of these methods takes, each unit after those that it stands on."""
    count = retrained(seeds)
    wanted = [Unit(kind="run", method=RETRAIN, seed=seed) for seed in range(count)]
    wanted += [
        Unit(kind="shadow", method=RETRAIN, seed=seed) for seed in range(count, count + shadows)
    ]
    wanted += [
        Unit(kind="run", method=method, seed=seed)
        for seed in range(seeds)
        for method in methods
        if method != RETRAIN
    ]
    return _with_roots(wanted)


def evaluate_teachers(methods: Sequence[str], seeds: int) -> list[Unit]:
    """Return what a look at these methods' teachers takes."""
    wanted = comparison([ORIGINAL], seeds, 0)
    wanted += [
        Unit(kind="teachers", method=method, seed=seed)
        for seed in range(seeds)
        for method in methods
    ]
    return _with_roots(wanted)


def needs(unit: Unit) -> Iterator[Unit]:
    """Yield what must be there before a unit is made; the root goes by the first of its kind."""
    if unit.kind not in {"run", "teachers"}:
        return
    method = get_method(unit.method)
    plain = get_method(_PLAIN)
    maker = _PLAIN if method.root == plain.root else unit.method
    yield Unit(kind="root", method=maker, seed=unit.seed)
    if method.calibrated:
        yield Unit(kind="calibration", method=unit.method, seed=unit.seed)


def _with_roots(wanted: Sequence[Unit]) -> list[Unit]:
    ordered: dict[Unit, None] = {}
    for unit in wanted:
        ordered.update(dict.fromkeys(needs(unit)))
        ordered[unit] = None
    return list(ordered)
