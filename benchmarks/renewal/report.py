"""Render the results as Markdown tables and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from benchmarks.unlearning import plot_style, plots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Results = dict[str, Any]
Row = dict[str, Any]

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
_WAIT: Final = "waited_for_renewal"
_COLUMNS: Final[tuple[tuple[str, Callable[[Row], str]], ...]] = (
    ("batches", lambda f: f"{f['batches']:,}"),
    ("renewals", lambda f: f"{f['renewals']:,}"),
    ("preempted", lambda f: f"{f['preemptions']:,}"),
    ("failed", lambda f: f"{f['failed_renewals']:,}"),
    ("hours forget + renew", lambda f: f"{f['forget_hours']:,.0f} + {f['renewal_hours']:,.0f}"),
    ("busy", lambda f: f"{f['utilization']:.1%}"),
    ("to completed", lambda f: _spread(f["to_completed"])),
    ("to exact", lambda f: _spread(f["to_exact"])),
    ("least slack", lambda f: duration(f["least_slack"])),
    ("missed", lambda f: f"{f['missed_deadlines']:,}"),
    ("waited for a renewal", lambda f: f"{f[_WAIT]['share_of_requests']:.1%}"),
    ("wait median / 95 % / longest", lambda f: _spread(f[_WAIT])),
    ("time with a batch waiting", lambda f: f"{f[_WAIT]['share_of_time']:.1%}"),
    ("queue at end", lambda f: f"{f['queue_at_end']:,}"),
)
_HEAD: Final = ("deletions a day", "model", "mode", "scenario")


def duration(seconds: float | None) -> str:
    """Return seconds in the largest fitting unit."""
    if seconds is None:
        return "–"
    for length, unit in _UNITS:
        if abs(seconds) >= length or unit == "s":
            return f"{seconds / length:,.1f} {unit}"
    return ""


def _spread(figures: Row) -> str:
    return " / ".join(duration(figures[name]) for name in ("median", "p95", "latest"))


def _cells(row: Row) -> list[str]:
    head = [f"{row['per_day']:,}", row["model"], row["mode"], row["name"]]
    return head + [show(row["figures"]) for _, show in _COLUMNS]


def terminal_table(results: Results) -> Table:
    """Return the main figures as a table for the terminal."""
    table = Table(*_HEAD, "to exact", "least slack", "missed", "queue at end")
    for row in results["scenarios"]:
        figures = row["figures"]
        shown = (_spread(figures["to_exact"]), duration(figures["least_slack"]))
        counts = (f"{figures['missed_deadlines']:,}", f"{figures['queue_at_end']:,}")
        table.add_row(*_cells(row)[: len(_HEAD)], *shown, *counts)
    return table


def markdown(results: Results) -> str:
    """Return the tables: the scenarios, and how many deletions a day batches can complete."""
    names = (*_HEAD, *(name for name, _ in _COLUMNS))
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in results["scenarios"]]
    lines += ["", "| batch size | seconds of a batch | deletions a day |", "|---|---|---|"]
    lines += [
        f"| {row['size']:,} | {row['seconds']:.1f} | {row['per_day']:,.0f} |"
        for row in results["capacity"]
    ]
    return "\n".join(lines) + "\n"


def write_plot(results: Results, out: Path) -> None:
    """Draw the latest exact time of each plain scenario; raises MissingPlotsError."""
    plots.require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- optional
    from matplotlib.figure import Figure  # noqa: PLC0415 -- optional

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    series: dict[tuple[str, str], list[Row]] = {}
    for row in results["scenarios"]:
        if row["name"] == "plain":
            series.setdefault((row["model"], row["mode"]), []).append(row)
    styles = zip(series.items(), plot_style.PALETTE, plot_style.MARKERS, strict=False)
    for number, (((model, mode), rows), color, marker) in enumerate(styles):
        style = {"color": color, "marker": marker, "label": f"{model}, {mode}"}
        # Equal results would hide each other.
        rates = [row["per_day"] * 1.06**number for row in rows]
        latest = [row["figures"]["to_exact"]["latest"] or float("nan") for row in rows]
        left.plot(rates, [seconds / 86_400.0 for seconds in latest], **style)
        shares = [100.0 * row["figures"][_WAIT]["share_of_requests"] for row in rows]
        right.plot(rates, shares, **style)
    left.axhline(results["exact_days"], color=plot_style.GRAY, linestyle="--")
    left.annotate("deadline", (0.02, results["exact_days"]), xycoords=("axes fraction", "data"))
    left.set(xscale="log", yscale="log", xlabel="deletions a day", ylabel="latest exact time, days")
    right.set(ylim=0, xlabel="deletions a day", ylabel="deletions that waited for a renewal, %")
    right.legend(frameon=False, fontsize="small")
    figure.savefig(out / "exact.png", dpi=120, metadata={"Software": None})
