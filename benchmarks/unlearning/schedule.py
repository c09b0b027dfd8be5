"""Makes the units of a benchmark one after the other, and tells how long the rest will take."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING, Protocol

from benchmarks.unlearning.children import make_apart
from benchmarks.unlearning.errors import BenchmarkFailedError, UnitFailedError
from benchmarks.unlearning.units import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.unlearning.setting import Setting
    from benchmarks.unlearning.units import Unit


class Screen(Protocol):
    """Where people see how far it is."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Show what is being made, after how many seconds and before how many, if that is known.

        May raise to interrupt.
        """

    def tell(self, text: str) -> None:
        """Print a line."""


class Clock:
    """Foretells how long units take from those of the same kind that were made before."""

    def __init__(self, pending: Sequence[Unit]) -> None:
        self._pending = list(pending)
        self._taken: dict[tuple[str, str], list[float]] = defaultdict(list)

    def made(self, unit: Unit, seconds: float) -> None:
        """Note how long a unit took; it is pending no more."""
        self._pending.remove(unit)
        self._taken[unit.kind, unit.method].append(seconds)

    def left(self, unit: Unit, fraction: float, spent: float) -> float | None:
        """Return the seconds left in all, `spent` of them on `unit`, which is that far.

        None as long as nothing is known.
        """
        known = {key: mean(found) for key, found in self._taken.items()}
        key = unit.kind, unit.method
        if key in known:
            known[key] = max(known[key], spent)
        elif fraction > 0:
            known[key] = spent / fraction
        if not known:
            return None
        usual = mean(known.values())
        whole = sum(known.get((each.kind, each.method), usual) for each in self._pending)
        return max(whole - spent, 0.0)


def make_all(units: Sequence[Unit], setting: Setting, screen: Screen) -> dict[Unit, str]:
    """Make every unit that is missing; return those that failed, with the reason.

    What stands on a failed unit fails with it, and the others go on. Raises BenchmarkFailedError
    where a Retrain run fails, because nothing can be compared without it.
    """
    pending = [unit for unit in units if not unit.finished(setting)]
    clock = Clock(pending)
    failed: dict[Unit, str] = {}
    begun = time.monotonic()
    done = len(units) - len(pending)
    for unit in pending:
        started = time.monotonic()
        text = f"{done} of {len(units)} · {unit.title()}"

        def look(fraction: float, unit: Unit = unit, text: str = text) -> None:
            now = time.monotonic()
            screen.at(text, now - begun, clock.left(unit, fraction, now - started))  # noqa: B023

        error = _make(unit, setting, failed, look)
        clock.made(unit, time.monotonic() - started)
        done += 1
        if error:
            failed[unit] = error
            unit.note_failure(setting, error)
            if unit.essential():
                raise BenchmarkFailedError(
                    f"{unit.title()}, failed: {error} Without Retrain nothing can be compared; "
                    "what is finished is kept."
                )
        took = f"{time.monotonic() - started:.1f} s"
        screen.tell(f"{done} of {len(units)}: {unit.title()}, {error or took}")
    return failed


def _make(
    unit: Unit, setting: Setting, failed: dict[Unit, str], look: Callable[[float], None]
) -> str:
    """Make a unit unless another start, or a unit of the same root, has; return what failed."""
    for needed in needs(unit):
        if needed in failed:
            return f"what it stands on failed ({needed.title()}): {failed[needed]}"
    if unit.finished(setting):
        return ""
    try:
        make_apart(unit, setting, look)
    except UnitFailedError as error:
        return str(error)
    return ""
