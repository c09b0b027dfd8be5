"""What all runs of one benchmark share, and the first releases that they start from.

A first release lies in OUT/work as a checkpoint per kind (`root`) and seed, with the seconds that
its training took; its calibration lies beside it. Finished ones are read, not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from benchmarks.unlearning.protocols import apply
from models.audit.calibration import CalibrationConfig, ExpectedLossIncrease, calibrate
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.prompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.unlearning.protocols import Case
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningMethod


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The data, what is forgotten of it, how releases are trained, and where everything lies."""

    data: Interactions
    protocol: str
    forget_seed: int
    recipe: TrainConfig
    out: Path

    @cached_property
    def case(self) -> Case:
        """Who is forgotten; raises ProtocolError and TooSmallToSplitError."""
        return apply(self.data, self.protocol, self.forget_seed)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, from the whole catalogue."""
        return Vocabulary.from_catalog(self.data)

    def bare(self) -> Self:
        """Return the same setting without what it has worked out, to be sent to a process."""
        return replace(self)

    def root_place(self, method: UnlearningMethod, seed: int) -> Path:
        """Return where the first release of a method lies."""
        return self.out / "work" / f"{method.root}-{seed}"

    def calibration_place(self, method: UnlearningMethod, seed: int) -> Path:
        """Return where the expected rises of that release lie."""
        return self.out / "work" / f"{method.root}-{seed}.calibration.json"

    def run_place(self, name: str, seed: int) -> Path:
        """Return where a finished run lies: this file, and its margins beside it as `.npz`."""
        return self.out / "runs" / f"{name}-{seed}.json"


def has_root(setting: Setting, method: UnlearningMethod, seed: int) -> bool:
    """Say whether a method's first release is there."""
    return (setting.root_place(method, seed) / manifests.MANIFEST).exists()


def train_root(
    setting: Setting, method: UnlearningMethod, seed: int, progress: Progress
) -> Recommender:
    """Train the release that knows everybody, as this method's kind does, and keep it."""
    started = time.monotonic()
    recipe = setting.recipe.seeded(seed)
    trained = method.train(setting.vocabulary, setting.case.whole, recipe, progress)
    extra = {"seconds": time.monotonic() - started, "recipe": recipe.manifest()}
    place = setting.root_place(method, seed)
    partial = place.with_name(f"{place.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoints.save(trained, partial, method=method.root, extra=extra)
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    return trained


def load_root(setting: Setting, method: UnlearningMethod, seed: int) -> tuple[Recommender, float]:
    """Return a method's first release, and the seconds that its training took."""
    place = setting.root_place(method, seed)
    seconds = float(manifests.read_manifest(place).extra["seconds"])
    return checkpoints.load(place), seconds


def calibrate_root(
    setting: Setting, method: UnlearningMethod, seed: int, progress: Progress
) -> None:
    """Measure how far losses should rise, as a release's training does, and keep it."""
    original, _ = load_root(setting, method, seed)
    whole = setting.case.whole
    started = time.monotonic()
    expected = calibrate(
        whole.retained,
        original,
        whole,
        frozenset(),
        CalibrationConfig(seed=seed + 1),
        lambda rows: method.train(setting.vocabulary, rows, setting.recipe.seeded(seed), progress),
    )
    kept = {
        "seconds": time.monotonic() - started,
        "expected": {kind: asdict(loss_increase) for kind, loss_increase in expected.items()},
    }
    write_json(setting.calibration_place(method, seed), kept)


def load_calibration(
    setting: Setting, method: UnlearningMethod, seed: int
) -> tuple[dict[str, ExpectedLossIncrease], float]:
    """Return the expected rise per kind of row and the seconds it took; nothing, if uncalibrated.

    Every batch of a chain has the first release's, as the manifests of a lineage do.
    """
    if not method.calibrated:
        return {}, 0.0
    kept = read_json(setting.calibration_place(method, seed))
    return {
        kind: ExpectedLossIncrease(**loss_increase)
        for kind, loss_increase in kept["expected"].items()
    }, kept["seconds"]


def write_json(place: Path, value: Mapping[str, Any]) -> None:
    """Write strict JSON in one move: a reader, or a resumed benchmark, never sees half a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.part")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(place)


def read_json(place: Path) -> dict[str, Any]:
    """Return what `write_json` wrote."""
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found
