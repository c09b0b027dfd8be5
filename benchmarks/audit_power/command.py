"""The command `lethe benchmark audit-power`: options, progress, and the tables of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import command
from app.cli.options import AsJson
from app.cli.screen import Screen, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.audit_power.power import Counts

STRENGTHS: Final = ("weak", "strong")


@command
def audit_power(
    draws: Annotated[int, typer.Option(min=1, help="Synthetic installations per strength.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how often the audit passes honest candidates and fakes."""
    from benchmarks.audit_power import power  # noqa: PLC0415 -- loads scipy and the audit

    screen = Screen.make(as_json=as_json)
    results: dict[str, Any] = {"draws": draws, "seed": seed}
    parts = []
    for strength in STRENGTHS:
        counts = power.measure(strength, draws, seed)
        missed = power.missed_lines(counts)
        results[strength] = {
            "candidates": [count.values() for count in counts],
            "missed": missed,
        }
        parts += [Text(f"Memorization: {strength}"), power_table(counts), *map(Text, missed)]
    screen.result(results, *parts)


def power_table(counts: Sequence[Counts]) -> Any:
    """Return the shares of passed / failed outcomes in percent; the rest is inconclusive."""

    def cell(outcomes: dict[str, float]) -> str:
        if not outcomes:
            return ""
        return f"{100 * outcomes.get('passed', 0):.0f}/{100 * outcomes.get('failed', 0):.0f}"

    columns = ("earlier_gate", "batch", "persons", "untouched_persons")
    rows = [
        (
            values["candidate"],
            f"{values['people']} × {values['rows'] or '…'}",
            *(cell(values[column]) for column in columns),
        )
        for values in (count.values() for count in counts)
    ]
    headers = ("% passed/failed", "size", "before", "now", "persons", "kept")
    return table(*headers, rows=rows, numbers=(1, 2, 3, 4, 5))
