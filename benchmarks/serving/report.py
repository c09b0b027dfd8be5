"""Render the results as a terminal table, a README and a plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from benchmarks.unlearning import plot_style, plots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Results = dict[str, Any]

#: Goals per ratio: the bound, and whether a larger value is better.
GOALS: Final = {
    "naive": (50.0, True),
    "padded_batch": (7.0, True),
    "swap_p99": (1.25, False),
    "overhead": (0.25, False),
}
_COLUMNS: Final = (
    "clients",
    "requests",
    "failed",
    "refused",
    "throughput",
    "p50_ms",
    "p99_ms",
    "p999_ms",
)


def terminal_table(results: Results) -> Table:
    """Return the scenarios as a table for the terminal."""
    table = Table("scenario", *_COLUMNS)
    for row in results["scenarios"]:
        table.add_row(row["name"], *(_number(row[name]) for name in _COLUMNS))
    return table


def goal_lines(results: Results) -> list[str]:
    """Return one line per ratio: value, goal, and whether the goal is reached."""
    lines = []
    for name, (goal, larger_is_better) in GOALS.items():
        value = results["ratios"].get(name)
        if value is None:
            lines.append(f"{name}: not measured (goal {goal:g})")
            continue
        reached = value >= goal if larger_is_better else value <= goal
        word = "reached" if reached else "NOT reached"
        lines.append(f"{name}: {value:.2f} (goal {goal:g}: {word})")
    return lines


def markdown(results: Results) -> str:
    """Return the README of the results."""
    head = "| scenario | " + " | ".join(_COLUMNS) + " |"
    rule = "|---" * (len(_COLUMNS) + 1) + "|"
    rows = [
        "| " + " | ".join([row["name"], *(_number(row[name]) for name in _COLUMNS)]) + " |"
        for row in results["scenarios"]
    ]
    sections = [
        "# Serving",
        _about(results),
        "\n".join([head, rule, *rows]),
        "## Ratios\n\n" + "\n".join(f"- {line}" for line in goal_lines(results)),
        "## Deletions under load\n\n" + _mapping_table(results.get("swaps", [])),
        "## Parts of one request (median milliseconds, in process)\n\n"
        + "\n".join(f"- {name}: {value:.2f}" for name, value in results["parts"].items()),
        "## Scoring in process, one thread\n\n" + _scoring(results["scoring"]),
        "## Growth\n\n"
        + "\n\n".join(
            f"### {name}\n\n{_mapping_table(points)}" for name, points in results["growth"].items()
        ),
        *results.get("notes", []),
    ]
    return "\n\n".join(sections) + "\n"


def write(results: Results, out: Path) -> None:
    """Write the README and, if matplotlib is installed, the plot of growth."""
    (out / "README.md").write_text(markdown(results), encoding="utf-8")
    try:
        plots.require_matplotlib()
    except plots.MissingPlotsError as error:
        results.setdefault("notes", []).append(str(error))
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- optional
    from matplotlib.figure import Figure  # noqa: PLC0415 -- optional

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(results["growth"]), sharey=True)
    for axis, (name, points) in zip(axes, results["growth"].items(), strict=True):
        for color, kind in zip(plot_style.PALETTE, ("first_stage_ms", "model_ms"), strict=False):
            axis.plot(
                [point[name] for point in points],
                [point[kind] for point in points],
                marker="o",
                color=color,
                label=kind.removesuffix("_ms").replace("_", " "),
            )
        axis.set_xscale("log")
        axis.set_xlabel(name)
    # Set after all lines are drawn, because a limit stops automatic scaling.
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(frameon=False)
    figure.savefig(out / "growth.png", dpi=120)


def _about(results: Results) -> str:
    return (
        f"`lethe benchmark serving`, {results['date']}, commit `{results['commit']}`, "
        f"{results['machine']}, gateways: {results['replicas']}, "
        f"database: {results.get('database', 'SQLite')}; {results['seconds']:.0f} s in "
        "total. Times are of answered requests; in open loops they count from the due time."
    )


def _scoring(figures: Mapping[str, Any]) -> str:
    medians = figures["milliseconds"]
    rows = [
        f"| {name} | {value:.2f} | {medians['naive'] / value:.1f} "
        f"| {medians['padded'] / value:.1f} |"
        for name, value in medians.items()
    ]
    about = (
        f"h = {figures['prefix_tokens']}, c = {figures['candidate_tokens']:.1f}, "
        f"N = {figures['candidates']}; in theory {figures['theory']:.2f} times faster than one "
        f"padded batch; useful work at {figures['flops_share']:.0%} of "
        f"{figures['peak_flops'] / 1e9:.0f} GFLOP/s."
    )
    return "\n".join(
        [
            about + "\n",
            "| method | ms | naive ÷ | padded ÷ |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _mapping_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "None."
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(_number(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
