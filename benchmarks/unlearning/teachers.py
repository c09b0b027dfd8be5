"""How far the teachers' own answers are from Retrain, before any student is trained.

What a student learns can hardly be nearer than what it is taught: look here first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from rich.table import Table

from benchmarks.unlearning.command import BenchmarkInputError, finite
from benchmarks.unlearning.report import DASH, caption
from benchmarks.unlearning.results import RETRAIN, summary
from benchmarks.unlearning.runs import nothing
from models.audit.divergence import jensen_shannon
from models.audit.utility import utility
from models.training import CalibrationConfig, calibrate
from models.unlearning.base import UnlearningTask
from models.unlearning.registry import METHODS, get_method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from benchmarks.unlearning.command import Benchmark, Told
    from benchmarks.unlearning.runs import Setting
    from models.training import Progress

    Teachers = dict[str, list[float]]

ORIGINAL: Final = "original"
MEASURES: Final = ("jsd", "forget_loss", "forget_auc")


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


def wanted(benchmark: Benchmark) -> set[tuple[str, int]]:
    """Return what `look` tells of: (name, seed) of every run and of every method's teachers."""
    seeds = range(benchmark.options.seeds)
    chosen = teaching(benchmark.options.methods)
    return benchmark.wanted([ORIGINAL]) | {(_step(m), seed) for m in chosen for seed in seeds}


def finished(benchmark: Benchmark) -> set[tuple[str, int]]:
    """Return those of the wanted that an earlier start has finished."""
    seeds = range(benchmark.options.seeds)
    return benchmark.finished([ORIGINAL]) | {
        (_step(method), seed)
        for method in teaching(benchmark.options.methods)
        for seed in seeds
        if _place(benchmark.setting, method, seed).exists()
    }


def _step(method: str) -> str:
    return f"{method}'s teachers"


def _place(setting: Setting, method: str, seed: int) -> Path:
    return setting.out / "teachers" / f"{method}-{seed}.json"


def look(benchmark: Benchmark, told: Told) -> dict[str, Any]:
    """Compare every teacher of every seed with all Retrain runs, and write teachers.json."""
    chosen = teaching(benchmark.options.methods)
    compared = benchmark.compare([ORIGINAL], told)
    runs = compared["runs"]
    retrained = benchmark.margins([run for run in runs if run["method"] == RETRAIN])
    measured = []
    for method in chosen:
        for seed in range(benchmark.options.seeds):
            found = _taught(benchmark.setting, method, seed)
            measured += [
                {"method": f"{method}: {name}", "seed": seed}
                | _measure(np.array(margins), retrained, benchmark.setting.batch.forget.label)
                for name, margins in found.items()
            ]
            told({"method": _step(method), "seed": seed})
    bases = [{key: run[key] for key in ("method", "seed", *MEASURES)} for run in runs]
    results: dict[str, Any] = finite(
        {
            **benchmark.about(),
            "noise_floor": compared["noise_floor"],
            "runs": bases + measured,
            "summary": summary(bases + measured),
        }
    )
    benchmark.write("teachers.json", results)
    found = results
    return dict(found)


def _measure(
    own: np.ndarray[Any, Any], retrained: Sequence[np.ndarray[Any, Any]], label: Any
) -> dict[str, float]:
    found = utility(label, own)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in retrained])),
        "forget_loss": found["log_loss"],
        "forget_auc": found["auc"],
    }


def _taught(setting: Setting, method: str, seed: int) -> Teachers:
    """Return the margins of a method's teachers by name, made now unless the folder has them."""
    place = _place(setting, method, seed)
    if not place.exists():
        made = _teach(setting, method, seed)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".part")
        partial.write_text(json.dumps(made), encoding="utf-8")
        partial.replace(place)
    found: Teachers = json.loads(place.read_text(encoding="utf-8"))
    return found


def _teach(setting: Setting, method: str, seed: int) -> Teachers:
    chosen = get_method(method)
    if not isinstance(chosen, Teaching):
        raise BenchmarkInputError(f"{method} has no teacher.")
    original, _ = setting.original(seed)
    recipe = setting.recipe.seeded(seed)
    expected = {}
    if chosen.calibrated:
        shadow = CalibrationConfig(seed=seed + 1)
        expected = calibrate(
            setting.whole.retained, original, setting.whole, frozenset(), recipe, shadow, nothing
        )
    task = UnlearningTask(
        recommender=original, prepared=setting.batch, expected=expected, recipe=recipe, seed=seed
    )
    found = chosen.teacher_margins(task, nothing)
    return {name: margins.double().tolist() for name, margins in found.items()}


def teacher_table(results: Mapping[str, Any]) -> Table:
    """Return the distances of the teachers beneath those of Retrain and Original."""
    table = Table(caption=caption(results), caption_justify="left", pad_edge=False)
    table.add_column("teacher")
    for heading in ("JSD×1000", "forget loss", "forget AUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in results["summary"].items():
        table.add_row(name, *(_cell(found.get(each), each) for each in MEASURES))
    return table


def _cell(found: Mapping[str, float | None] | None, measure: str) -> str:
    mean, std = (found.get("mean"), found.get("std")) if found else (None, None)
    if mean is None:
        return DASH
    scale, digits = (1e3, 2) if measure == "jsd" else (1.0, 4)
    return f"{mean * scale:.{digits}f}" + (f" ± {std * scale:.{digits}f}" if std else "")
