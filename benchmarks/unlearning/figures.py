"""Read figures of results.json, whose format `report` describes. Missing keys are None."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.unlearning.names import RETRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    Results = Mapping[str, Any]


def methods(results: Results) -> list[str]:
    """Return the methods in the order of their first runs."""
    return list(dict.fromkeys(str(run["method"]) for run in results.get("runs", ())))


def values(results: Results, method: str, measure: str) -> list[float]:
    """Return the finite values of a measure over the runs of a method."""
    raw = [run.get(measure) for run in results.get("runs", ()) if run["method"] == method]
    return [float(value) for value in raw if value is not None and math.isfinite(value)]


def mean_and_std(results: Results, method: str, measure: str) -> tuple[float, float] | None:
    """Return mean and standard deviation over seeds, or None if unknown."""
    for ratio, base in (("relearn_ratio", "relearn_steps"), ("seconds_ratio", "seconds")):
        if measure == ratio:
            own = mean_and_std(results, method, base)
            retrain = mean_and_std(results, RETRAIN, base)
            if not (own and retrain and retrain[0]):
                return None
            return own[0] / retrain[0], own[1] / retrain[0]
    summary = (results.get("summary") or {}).get(method, {}).get(measure)
    if summary and summary.get("mean") is not None:
        return float(summary["mean"]), float(summary.get("std") or 0.0)
    measured = values(results, method, measure)
    if not measured:
        return None
    std = float(np.std(measured, ddof=1)) if len(measured) > 1 else 0.0
    return float(np.mean(measured)), std


def measure(results: Results, method: str, *keys: str) -> Any:
    """Return a measure over seeds of a method, or None if it was not measured."""
    value: Any = (results.get("measures") or {}).get(method)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def mean_of(results: Results, method: str, name: str) -> float | None:
    """Return the mean over seeds of a figure of runs, or None if it was not measured."""
    statistics = mean_and_std(results, method, name)
    return statistics[0] if statistics else None
