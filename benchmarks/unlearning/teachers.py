"""How far the teachers' own answers are from Retrain, before any student is trained.

What a student learns can hardly be nearer than what it is taught: look here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.table import Table

from benchmarks.unlearning.numbers import finite
from benchmarks.unlearning.report import DASH, caption
from benchmarks.unlearning.results import summary
from benchmarks.unlearning.schedule import make_all
from benchmarks.unlearning.setting import write_json
from benchmarks.unlearning.teaching import load_teachers, teaching
from benchmarks.unlearning.units import evaluate_teachers
from models.audit.divergence import jensen_shannon
from models.data.metrics import utility

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.unlearning.command import Benchmark
    from benchmarks.unlearning.schedule import Screen

TEACHERS: Final = "teachers.json"
MEASURES: Final = ("jsd", "forget_loss", "forget_auc")


def evaluate(benchmark: Benchmark, screen: Screen) -> dict[str, Any]:
    """Compare every teacher of every seed with all Retrain runs, and write teachers.json."""
    options = benchmark.options
    wanted = evaluate_teachers(teaching(options.methods), options.seeds)
    failed = make_all(wanted, benchmark.setting, screen)
    compared = benchmark.compare(wanted)
    retrained = benchmark.retrained(wanted)
    measured: list[dict[str, Any]] = []
    for unit in wanted:
        if unit.kind == "teachers" and unit not in failed:
            found = load_teachers(benchmark.setting, unit.method, unit.seed)
            measured += [
                {"method": f"{unit.method}: {name}", "seed": unit.seed}
                | _measure(margins, retrained, benchmark.setting.case.batch.forget.label)
                for name, margins in found.items()
            ]
    bases = [
        {key: run[key] for key in ("method", "seed", *MEASURES)}
        for run in compared["runs"]
        if "error" not in run
    ]
    results: dict[str, Any] = finite(
        {
            **benchmark.about(),
            "noise_floor": compared["noise_floor"],
            "runs": bases + measured,
            "failed": [
                {"method": unit.method, "seed": unit.seed, "error": error}
                for unit, error in failed.items()
                if unit.kind in {"run", "teachers"}
            ],
            "summary": summary(bases + measured),
        }
    )
    write_json(options.out / TEACHERS, results)
    return results


def _measure(own: Any, retrained: Sequence[Any], label: Any) -> dict[str, float]:
    found = utility(label, own)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in retrained])),
        "forget_loss": found["log_loss"],
        "forget_auc": found["auc"],
    }


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
