"""Measure the distance of the teachers' margins to Retrain, without training a student.

A student is rarely closer to Retrain than its teachers, so this is a cheap first check of a method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.table import Table

from app.domain.json_values import plain
from benchmarks.unlearning.measure_table import DASH
from benchmarks.unlearning.report import caption
from benchmarks.unlearning.results import summary
from benchmarks.unlearning.schedule import make_all
from benchmarks.unlearning.setting import write_json
from benchmarks.unlearning.teaching import load_teachers, methods_with_teachers
from benchmarks.unlearning.units import teacher_units
from models.audit.divergence import jensen_shannon
from models.data.metrics import utility

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.unlearning.benchmark import Benchmark
    from benchmarks.unlearning.schedule import Screen

TEACHERS: Final = "teachers.json"
MEASURES: Final = ("jsd", "forget_loss", "forget_auc")


def evaluate(benchmark: Benchmark, screen: Screen) -> dict[str, Any]:
    """Compare every teacher of every seed with all Retrain runs, write and return the results."""
    options = benchmark.options
    units = teacher_units(methods_with_teachers(options.methods), options.seeds)
    failed = make_all(units, benchmark.setting, screen)
    compared = benchmark.compare(units)
    retrain_margins = benchmark.retrain_margins(units)
    measured: list[dict[str, Any]] = []
    for unit in units:
        if unit.kind == "teachers" and unit not in failed:
            margins_by_name = load_teachers(benchmark.setting, unit.method, unit.seed)
            measured += [
                {"method": f"{unit.method}: {name}", "seed": unit.seed}
                | _measure(margins, retrain_margins, benchmark.setting.case.batch.forget.label)
                for name, margins in margins_by_name.items()
            ]
    base_runs = [
        {key: run[key] for key in ("method", "seed", *MEASURES)}
        for run in compared["runs"]
        if "error" not in run
    ]
    results: dict[str, Any] = plain(
        {
            **benchmark.description(),
            "noise_floor": compared["noise_floor"],
            "runs": base_runs + measured,
            "failed": [
                {"method": unit.method, "seed": unit.seed, "error": error}
                for unit, error in failed.items()
                if unit.kind in {"run", "teachers"}
            ],
            "summary": summary(base_runs + measured),
        }
    )
    write_json(options.out / TEACHERS, results)
    return results


def _measure(own: Any, retrain_margins: Sequence[Any], label: Any) -> dict[str, float]:
    own_utility = utility(label, own)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in retrain_margins])),
        "forget_loss": own_utility["log_loss"],
        "forget_auc": own_utility["auc"],
    }


def teacher_table(results: Mapping[str, Any]) -> Table:
    """Return a table of the distances of Retrain, Original and the teachers."""
    table = Table(caption=caption(results), caption_justify="left", pad_edge=False)
    table.add_column("teacher")
    for heading in ("JSD×1000", "forget loss", "forget AUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, statistics in results["summary"].items():
        cells = (_cell(statistics.get(measure), measure) for measure in MEASURES)
        table.add_row(name, *cells)
    return table


def _cell(statistics: Mapping[str, float | None] | None, measure: str) -> str:
    mean = statistics.get("mean") if statistics else None
    if statistics is None or mean is None:
        return DASH
    std = statistics.get("std")
    scale, digits = (1e3, 2) if measure == "jsd" else (1.0, 4)
    return f"{mean * scale:.{digits}f}" + (f" ± {std * scale:.{digits}f}" if std else "")
