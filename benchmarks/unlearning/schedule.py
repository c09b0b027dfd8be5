"""Make the units of a benchmark in sequence and estimate the remaining time."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING, Protocol

from benchmarks.unlearning.children import make_in_process
from benchmarks.unlearning.errors import BenchmarkFailedError, UnitFailedError
from benchmarks.unlearning.units import required_units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.unlearning.setting import Setting
    from benchmarks.unlearning.units import Unit


class Screen(Protocol):
    """Progress display of the benchmark."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Show the current unit, the seconds spent, and the estimated seconds left.

        An exception interrupts the benchmark.
        """

    def tell(self, text: str) -> None:
        """Print a line."""


class TimeEstimate:
    """Estimates the time of pending units from finished units of the same kind and method."""

    def __init__(self, pending: Sequence[Unit]) -> None:
        self._pending = list(pending)
        self._durations: dict[tuple[str, str], list[float]] = defaultdict(list)

    def finish(self, unit: Unit, seconds: float) -> None:
        """Record the duration of a unit and remove the unit from the pending units."""
        self._pending.remove(unit)
        self._durations[unit.kind, unit.method].append(seconds)

    def seconds_left(self, unit: Unit, fraction: float, spent: float) -> float | None:
        """Return the estimated seconds left for all pending units, or None without any data.

        `unit` is running since `spent` seconds and has finished the given fraction.
        """
        known = {key: mean(seconds) for key, seconds in self._durations.items()}
        key = unit.kind, unit.method
        if key in known:
            known[key] = max(known[key], spent)
        elif fraction > 0:
            known[key] = spent / fraction
        if not known:
            return None
        average = mean(known.values())
        total = sum(known.get((other.kind, other.method), average) for other in self._pending)
        return max(total - spent, 0.0)


def make_all(units: Sequence[Unit], setting: Setting, screen: Screen) -> dict[Unit, str]:
    """Make all missing units and return the failed units with their errors.

    Units that depend on a failed unit fail too; other units go on. Raises BenchmarkFailedError if
    a Retrain run fails, because every comparison needs the Retrain runs.
    """
    pending = [unit for unit in units if not unit.is_finished(setting)]
    estimate = TimeEstimate(pending)
    failed: dict[Unit, str] = {}
    benchmark_started = time.monotonic()
    done = len(units) - len(pending)
    for unit in pending:
        started = time.monotonic()
        text = f"{done} of {len(units)} · {unit.title()}"

        def on_progress(fraction: float, unit: Unit = unit, text: str = text) -> None:
            now = time.monotonic()
            left = estimate.seconds_left(unit, fraction, now - started)  # noqa: B023
            screen.at(text, now - benchmark_started, left)

        error = _make(unit, setting, failed, on_progress)
        estimate.finish(unit, time.monotonic() - started)
        done += 1
        if error:
            failed[unit] = error
            unit.save_failure(setting, error)
            if unit.is_essential():
                raise BenchmarkFailedError(
                    f"{unit.title()}, failed: {error} The comparison needs all Retrain runs. "
                    "Finished runs are kept."
                )
        duration = f"{time.monotonic() - started:.1f} s"
        screen.tell(f"{done} of {len(units)}: {unit.title()}, {error or duration}")
    return failed


def _make(
    unit: Unit,
    setting: Setting,
    failed: dict[Unit, str],
    on_progress: Callable[[float], None],
) -> str:
    """Make a unit unless it is finished by now; return the error, or ""."""
    for required in required_units(unit):
        if required in failed:
            return f"a required unit failed ({required.title()}): {failed[required]}"
    if unit.is_finished(setting):
        return ""
    try:
        make_in_process(unit, setting, on_progress)
    except UnitFailedError as error:
        return str(error)
    return ""
