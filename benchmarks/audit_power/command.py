"""The command `lethe benchmark audit-power`: options, progress, and the tables of its report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import BadInputError, command
from app.cli.options import AsJson
from app.cli.screen import Screen, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.audit_power.power import Counts

STRENGTHS: Final = ("weak", "strong")


@command
def audit_power(
    draws: Annotated[int, typer.Option(min=1, help="Synthetic installations per strength.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the draws and of the trainings.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Data set on which models are trained, in place of synthetic installations.",
            show_default=False,
        ),
    ] = None,
    retrainings: Annotated[
        int, typer.Option(min=1, help="Retrainings without the people to forget, with --data.")
    ] = 6,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for results.json.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often the audit passes honest candidates and fakes."""
    screen = Screen.make(as_json=as_json)
    if data is None:
        results, parts = _synthetic(draws, seed)
    else:
        results, parts = _trained(data, retrainings, seed)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1) + "\n"
        (out / "results.json").write_text(text, encoding="utf-8")
    screen.result(results, *parts)


def _synthetic(draws: int, seed: int) -> tuple[dict[str, Any], list[Any]]:
    from benchmarks.audit_power import power  # noqa: PLC0415 -- loads scipy and the audit

    results: dict[str, Any] = {"draws": draws, "seed": seed}
    parts: list[Any] = []
    for strength in STRENGTHS:
        counts = power.measure(strength, draws, seed)
        results[strength] = _values(counts)
        parts += _report(f"Memorization: {strength}", counts, results[strength]["missed"])
    return results, parts


def _trained(path: Path, retrainings: int, seed: int) -> tuple[dict[str, Any], list[Any]]:
    from benchmarks.audit_power import real  # noqa: PLC0415 -- loads torch
    from benchmarks.ratings_without_times import read_ratings  # noqa: PLC0415
    from models.data.splits import TooSmallToSplitError  # noqa: PLC0415
    from models.datasets.errors import DataSetError  # noqa: PLC0415

    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    options = real.PowerOptions(retrainings=retrainings, seed=seed)
    try:
        counts = real.measure_data(read_ratings(path), options, report)
    except (DataSetError, TooSmallToSplitError, real.TooFewPeopleError) as error:
        raise BadInputError(str(error)) from error
    values = _values(counts)
    results = {"data": path.name, "retrainings": retrainings, "seed": seed} | values
    return results, _report(f"Trained on {path.name}", counts, values["missed"])


def _values(counts: Sequence[Counts]) -> dict[str, Any]:
    from benchmarks.audit_power import power  # noqa: PLC0415 -- loads scipy and the audit

    return {
        "candidates": [count.values() for count in counts],
        "missed": power.missed_lines(counts),
    }


def _report(title: str, counts: Sequence[Counts], missed: Sequence[str]) -> list[Any]:
    return [Text(title), power_table(counts), *map(Text, missed)]


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
