"""Draws the results of the unlearning benchmark: four plots, each as PNG and SVG, without a screen.

Knows results.json as `report` describes it. What a run lacks is left out of a plot; a plot of which
nothing is left is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.unlearning.report import RETRAIN, mean_and_std, methods

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
except ImportError as _error:
    _missing: ImportError | None = _error
else:
    _missing = None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis

    from benchmarks.unlearning.report import Results


class MissingPlotsError(RuntimeError):
    """Plots need matplotlib. Run: make setup."""


#: Okabe and Ito's colours, told apart by the colour-blind; markers repeat the distinction.
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = "os^Dv<>PX*h"
GREY: Final = "#666666"
#: Which multiples of a power of ten are labelled, by how many decades an axis shows at most.
TICKS: Final = ((0.7, range(1, 10)), (2.3, (1, 2, 5)), (np.inf, (1,)))
#: Below this (× 1000, or in seconds) nothing is told apart, and a log scale would go on for ever.
SMALLEST: Final = 1e-2
#: The least distance between two labels, in lines of text.
LINE: Final = 1.25


def check() -> None:
    """Raise MissingPlotsError where nothing can be drawn: better at once than after hours."""
    if _missing is not None:
        raise MissingPlotsError(MissingPlotsError.__doc__) from _missing


def write_plots(results: Results, out: Path) -> list[Path]:
    """Write what can be drawn and return the files. Raises MissingPlotsError."""
    check()
    written = []
    for name, draw in PLOTS.items():
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        if draw(results, axes):
            for suffix in ("png", "svg"):
                written.append(out / f"{name}.{suffix}")
                figure.savefig(written[-1], dpi=150)
    return written


def _style(results: Results, method: str) -> dict[str, Any]:
    index = methods(results).index(method)
    if method == RETRAIN:
        return {"color": "#000000", "marker": "*"}
    return {"color": PALETTE[index % (len(PALETTE) - 1)], "marker": MARKERS[index % len(MARKERS)]}


def _log_axis(axis: XAxis, low: float, high: float) -> None:
    """Scale an axis in decades from low to high, labelled as plainly as there is room for."""
    axis.axes.set_xscale("log")
    axis.axes.set_xlim(low, high)
    subs = next(subs for most, subs in TICKS if np.log10(high / low) <= most)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs="all"))
    axis.set_minor_formatter(NullFormatter())


def _span(values: Sequence[float], room: float = 0.08) -> tuple[float, float]:
    """Return limits around positive values, with some room on a log scale, a factor of 2 apart."""
    low, high = np.log10(max(min(values), SMALLEST)), np.log10(max(*values, SMALLEST))
    spare = max(room * (high - low), (np.log10(2.5) - (high - low)) / 2)
    return float(10 ** (low - spare)), float(10 ** (high + spare))


def _spread(wanted: list[float], gap: float) -> list[float]:
    """Return places at least `gap` apart, in the same order, near the wanted ones."""
    order = np.argsort(wanted, kind="stable")
    places = np.array(wanted, float)[order]
    for _ in range(200):
        overlap = gap - np.diff(places)
        if not (overlap > 1e-9).any():  # noqa: PLR2004 -- rounding
            break
        push = np.maximum(overlap, 0) / 2
        places[:-1] -= push
        places[1:] += push
    found = np.empty_like(places)
    found[order] = places
    return [float(place) for place in found]


def _label_right(axes: Axes, ends: list[tuple[str, float, float, str]]) -> None:
    """Label points (text, x, y, colour) in a column right of the axes, with thin leaders."""
    figure = axes.get_figure()
    if figure is None or not ends:
        return
    figure.canvas.draw()
    pixels = axes.transData.transform([(x, y) for _, x, y, _ in ends])
    box = axes.get_window_extent()
    heights = ((pixels[:, 1] - box.y0) / box.height).tolist()
    gap = 9 * LINE * figure.dpi / 72 / box.height
    for (text, x, y, color), place in zip(ends, _spread(heights, gap), strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.6},
        )


def pareto(results: Results, axes: Axes) -> bool:
    """Forgetting against utility: left is closer to retraining, up is better."""
    axes.set_title("Forgetting against utility", loc="left", pad=20)
    ends, seen = [], []
    for method in methods(results):
        x, y = (mean_and_std(results, method, name) for name in ("jsd", "test_auc"))
        if x and y:
            style = _style(results, method)
            axes.errorbar(
                x[0] * 1e3, y[0], xerr=x[1] * 1e3, yerr=y[1], **style, ms=7, lw=0.8, capsize=2
            )
            ends.append((method, x[0] * 1e3, y[0], style["color"]))
            seen += [(x[0] - x[1]) * 1e3 if x[1] < x[0] else x[0] * 1e3, (x[0] + x[1]) * 1e3]
    if not ends:
        return False
    interval = (results.get("noise_floor") or {}).get("jsd_interval")
    if interval:
        seen += [value * 1e3 for value in interval]
        axes.axvspan(interval[0] * 1e3, interval[1] * 1e3, color="#999999", alpha=0.25, lw=0)
        axes.annotate(
            "noise floor",
            (np.sqrt(interval[0] * interval[1]) * 1e3, 1.01),
            xycoords=("data", "axes fraction"),
            color=GREY,
            ha="center",
            fontsize=9,
        )
    _log_axis(axes.xaxis, *_span(seen))
    axes.set_xlabel("JSD to Retrain × 1000 (left: closer to retraining)")
    axes.set_ylabel("test AUC")
    _label_right(axes, ends)
    return True


def times(results: Results, axes: Axes) -> bool:
    """Seconds from request to release, and what had to be made before any request, apart."""
    known = [m for m in reversed(methods(results)) if mean_and_std(results, m, "seconds")]
    if not known:
        return False
    seen = []
    for place, method in enumerate(known):
        for name, shift, alpha in (("seconds", 0.2, 1.0), ("prepare_seconds", -0.2, 0.3)):
            found = mean_and_std(results, method, name)
            if found and found[0] > 0:
                seen.append(found[0])
                axes.barh(
                    place + shift,
                    found[0],
                    0.38,
                    color=_style(results, method)["color"],
                    alpha=alpha,
                )
                text = f" {_seconds(found[0])} s" + (" before" if shift < 0 else "")
                axes.annotate(
                    text,
                    (max(found[0], SMALLEST), place + shift),
                    va="center",
                    fontsize=8,
                    color=GREY,
                )
    axes.set_yticks(range(len(known)), known)
    # Room on the right for the figures.
    low, high = _span(seen)
    _log_axis(axes.xaxis, low, high * (high / low) ** 0.12)
    axes.set_title("Time", loc="left")
    axes.set_xlabel(
        "seconds (log scale). Full: from request to release; pale: once, before any request"
    )
    return True


def _seconds(value: float) -> str:
    if value < SMALLEST:
        return f"< {SMALLEST:g}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 -- three digits


def roc(results: Results, axes: Axes) -> bool:
    """Draw the membership attack's curves, means over seeds; the diagonal is a coin toss."""
    grid = np.geomspace(1e-3, 1, 100)
    axes.set_title("Membership attack on the forget rows", loc="left")
    axes.plot(grid, grid, color=GREY, lw=1, ls="--")
    ends = []
    for method in methods(results):
        curves = [
            np.interp(grid, run["roc"]["fpr"], run["roc"]["tpr"])
            for run in results["runs"]
            if run["method"] == method and run.get("roc")
        ]
        if curves:
            mean, color = np.mean(curves, axis=0), _style(results, method)["color"]
            ls = "-" if methods(results).index(method) < len(PALETTE) - 1 else "-."
            axes.plot(grid, mean, color=color, lw=1.5, ls=ls)
            # Labelled where the curves fan out: at 5 % false accusations, by their order there.
            at = int(np.searchsorted(grid, 0.05))
            ends.append((method, float(grid[-1]), float(mean[at]), color))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1e-3, 1)
    axes.set_ylim(1e-3, 1.05)
    axes.set_xlabel("retrained rows accused (false positive rate)")
    axes.set_ylabel("forget rows found (true positive rate)")
    ordered = sorted(ends, key=lambda end: -end[2])
    for place, (method, _, height, color) in enumerate(ordered):
        axes.annotate(
            f"{method}  {height:.3f}",
            (1.02, 0.92 - 0.055 * place),
            xycoords="axes fraction",
            color=color,
            fontsize=9,
        )
    axes.annotate("found at 5 %", (1.02, 0.98), xycoords="axes fraction", color=GREY, fontsize=9)
    return bool(ends)


def users(results: Results, axes: Axes) -> bool:
    """JSD per forgotten user and method; Retrain against Retrain is the reference."""
    held = {
        method: np.concatenate(
            [
                np.asarray(run["per_user"]["jsd"], float) * 1e3
                for run in results["runs"]
                if run["method"] == method and (run.get("per_user") or {}).get("jsd")
            ]
            or [np.empty(0)]
        )
        for method in methods(results)
    }
    known = [method for method in reversed(methods(results)) if len(held[method])]
    if not known:
        return False
    for place, method in enumerate(known):
        color = _style(results, method)["color"]
        axes.boxplot(
            [held[method]],
            positions=[place],
            orientation="horizontal",
            widths=0.6,
            whis=(5, 95),
            flierprops={"marker": ".", "ms": 3, "mec": color},
            boxprops={"color": color},
            medianprops={"color": color, "lw": 2},
            whiskerprops={"color": color},
            capprops={"color": color},
        )
    if len(held.get(RETRAIN, ())):
        low, high = np.quantile(held[RETRAIN], [0.05, 0.95])
        axes.axvspan(low, high, color="#999999", alpha=0.2, lw=0)
    _log_axis(axes.xaxis, *_span(np.concatenate(list(held.values())).tolist(), room=0.03))
    axes.set_title("Distance to retraining, user by user", loc="left")
    axes.set_yticks(range(len(known)), known)
    axes.set_xlabel(
        "JSD to Retrain × 1000 per user (box: half of them, whiskers: 90 %; grey: Retrain's 90 %)"
    )
    return True


PLOTS: Final[dict[str, Callable[[Results, Axes], bool]]] = {
    "pareto": pareto,
    "times": times,
    "membership": roc,
    "users": users,
}
