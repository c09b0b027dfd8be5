"""The setting that all runs of a benchmark share, and the first releases that they start from.

A first release is a checkpoint in OUT/work per kind of training (`root`) and seed; its manifest has
the training seconds. Its calibration is a file beside it. Existing files are loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from benchmarks.unlearning.protocols import apply_protocol
from models.audit.calibration import CalibrationConfig, ExpectedLossIncrease, calibrate
from models.audit.memorization import Memorization
from models.audit.person_calibration import PersonCalibration
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.prompts.vocabulary import Vocabulary
from models.unlearning.base import UnlearningTask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.unlearning.protocols import Case
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningMethod


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The data, the protocol, the training configuration, and the output directory."""

    data: Interactions
    protocol: str
    forget_seed: int
    recipe: TrainConfig
    out: Path

    @cached_property
    def case(self) -> Case:
        """Return the split and the batches; raises ProtocolError and TooSmallToSplitError."""
        return apply_protocol(self.data, self.protocol, self.forget_seed)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of the whole catalog."""
        return Vocabulary.from_catalog(self.data)

    def bare(self) -> Self:
        """Return a copy without cached properties, which is cheaper to send to a process."""
        return replace(self)

    def root_path(self, method: UnlearningMethod, seed: int) -> Path:
        """Return the checkpoint directory of a method's first release."""
        return self.out / "work" / f"{method.root}-{seed}"

    def calibration_path(self, method: UnlearningMethod, seed: int) -> Path:
        """Return the file with the expected loss increases of that release."""
        return self.out / "work" / f"{method.root}-{seed}.calibration.json"

    def run_path(self, name: str, seed: int) -> Path:
        """Return the JSON file of a finished run; its margins are the `.npz` file beside it."""
        return self.out / "runs" / f"{name}-{seed}.json"


def has_root(setting: Setting, method: UnlearningMethod, seed: int) -> bool:
    """Return whether a method's first release exists."""
    return (setting.root_path(method, seed) / manifests.MANIFEST).exists()


def train_root(
    setting: Setting, method: UnlearningMethod, seed: int, progress: Progress
) -> Recommender:
    """Train a method's first release on all users, and save it."""
    started = time.monotonic()
    recipe = setting.recipe.seeded(seed)
    trained = method.train(setting.vocabulary, setting.case.whole, recipe, progress)
    extra = {"seconds": time.monotonic() - started, "recipe": recipe.manifest()}
    path = setting.root_path(method, seed)
    partial = path.with_name(f"{path.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoints.save(trained, partial, method=method.root, extra=extra)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    return trained


def load_root(setting: Setting, method: UnlearningMethod, seed: int) -> tuple[Recommender, float]:
    """Load a method's first release and its training seconds."""
    path = setting.root_path(method, seed)
    seconds = float(manifests.read_manifest(path).extra["seconds"])
    return checkpoints.load(path), seconds


def calibrate_root(
    setting: Setting, method: UnlearningMethod, seed: int, progress: Progress
) -> None:
    """Calibrate the expected loss increases like a release's training, and save them."""
    original, _ = load_root(setting, method, seed)
    whole = setting.case.whole
    started = time.monotonic()
    measured = calibrate(
        whole.retained,
        original,
        whole,
        frozenset(),
        CalibrationConfig(seed=seed + 1),
        lambda rows: method.train(setting.vocabulary, rows, setting.recipe.seeded(seed), progress),
    )
    calibration = {
        "seconds": time.monotonic() - started,
        "expected": {
            kind: asdict(loss_increase) for kind, loss_increase in measured.expected.items()
        },
        "memorization": {
            kind: asdict(memorization) for kind, memorization in measured.memorization.items()
        },
        "persons": measured.persons.values(),
    }
    write_json(setting.calibration_path(method, seed), calibration)


def unlearning_task(
    setting: Setting,
    method: UnlearningMethod,
    seed: int,
    recommender: Recommender,
    batch: ForgetSplit,
) -> UnlearningTask:
    """Return the task to forget a batch, with the calibration of the method's first release."""
    expected, _ = load_calibration(setting, method, seed)
    return UnlearningTask(
        recommender=recommender,
        prepared=batch,
        expected=expected,
        memorization=_load_memorization(setting, method, seed),
        recipe=setting.recipe.seeded(seed),
        seed=seed,
    )


def load_calibration(
    setting: Setting, method: UnlearningMethod, seed: int
) -> tuple[dict[str, ExpectedLossIncrease], float]:
    """Load the expected loss increase per kind of row and the seconds of the calibration.

    The result is `({}, 0.0)` for uncalibrated methods. All batches of a sequence use the first
    release's calibration, like the manifests of a lineage.
    """
    if not method.calibrated:
        return {}, 0.0
    calibration = read_json(setting.calibration_path(method, seed))
    return {
        kind: ExpectedLossIncrease(**loss_increase)
        for kind, loss_increase in calibration["expected"].items()
    }, calibration["seconds"]


def _load_memorization(
    setting: Setting, method: UnlearningMethod, seed: int
) -> dict[str, Memorization]:
    """Load what leaving rows out changes, by kind of row; empty for uncalibrated methods."""
    if not method.calibrated:
        return {}
    calibration = read_json(setting.calibration_path(method, seed))
    return {
        kind: Memorization(**memorization)
        for kind, memorization in calibration["memorization"].items()
    }


def load_person_calibration(
    setting: Setting, method: UnlearningMethod, seed: int
) -> PersonCalibration | None:
    """Load the calibration of the audit of persons; None for uncalibrated methods."""
    if not method.calibrated:
        return None
    calibration = read_json(setting.calibration_path(method, seed))
    return PersonCalibration.from_values(calibration.get("persons"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write strict JSON atomically, so that a resumed benchmark never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
