"""Draw the plots of the unlearning benchmark, each as PNG and SVG.

The input is results.json as described in `report`. Missing measures are skipped; a plot without any
data is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.unlearning.figures import mean_and_std, methods
from benchmarks.unlearning.measure_plots import distance, exposure, people
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.plot_style import GRAY, PALETTE, draw_box, style

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

    from benchmarks.unlearning.figures import Results


class MissingPlotsError(RuntimeError):
    """Plots need matplotlib. Run: make setup."""


#: Labeled multiples of powers of ten, by the maximum number of decades of an axis.
TICKS: Final = ((0.7, range(1, 10)), (2.3, (1, 2, 5)), (np.inf, (1,)))
#: Lower limit of log axes (JSD × 1000, or seconds); smaller differences do not matter.
SMALLEST: Final = 1e-2
#: Minimum distance between two labels, in lines of text.
LABEL_DISTANCE: Final = 1.25


def require_matplotlib() -> None:
    """Raise MissingPlotsError without matplotlib; called before a benchmark that takes hours."""
    if _missing is not None:
        raise MissingPlotsError(MissingPlotsError.__doc__) from _missing


def write_plots(results: Results, out: Path) -> list[Path]:
    """Write all plots that have data and return their files; raises MissingPlotsError."""
    require_matplotlib()
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


def _log_axis(axis: XAxis, low: float, high: float) -> None:
    """Set a log scale from `low` to `high`, with as many labels as fit."""
    axis.axes.set_xscale("log")
    axis.axes.set_xlim(low, high)
    subs = next(subs for max_decades, subs in TICKS if np.log10(high / low) <= max_decades)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs="all"))
    axis.set_minor_formatter(NullFormatter())


def _span(values: Sequence[float], room: float = 0.08) -> tuple[float, float]:
    """Return log-axis limits around positive values, at least a factor of 2.5 apart."""
    low, high = np.log10(max(min(values), SMALLEST)), np.log10(max(*values, SMALLEST))
    spare = max(room * (high - low), (np.log10(2.5) - (high - low)) / 2)
    return float(10 ** (low - spare)), float(10 ** (high + spare))


def _spread(targets: list[float], gap: float) -> list[float]:
    """Return positions near the targets, in the same order and at least `gap` apart."""
    order = np.argsort(targets, kind="stable")
    positions = np.array(targets, float)[order]
    for _ in range(200):
        overlap = gap - np.diff(positions)
        if not (overlap > 1e-9).any():  # noqa: PLR2004 -- rounding
            break
        push = np.maximum(overlap, 0) / 2
        positions[:-1] -= push
        positions[1:] += push
    result = np.empty_like(positions)
    result[order] = positions
    return [float(position) for position in result]


def _label_right(axes: Axes, ends: list[tuple[str, float, float, str]]) -> None:
    """Label points (text, x, y, color) in a column right of the axes, with thin lines."""
    figure = axes.get_figure()
    if figure is None or not ends:
        return
    figure.canvas.draw()
    pixels = axes.transData.transform([(x, y) for _, x, y, _ in ends])
    box = axes.get_window_extent()
    heights = ((pixels[:, 1] - box.y0) / box.height).tolist()
    gap = 9 * LABEL_DISTANCE * figure.dpi / 72 / box.height
    for (text, x, y, color), height in zip(ends, _spread(heights, gap), strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.6},
        )


def pareto(results: Results, axes: Axes) -> bool:
    """Draw the test AUC over the distance to retraining."""
    axes.set_title("Forgetting against utility", loc="left", pad=20)
    ends, seen = [], []
    for method in methods(results):
        x, y = (mean_and_std(results, method, name) for name in ("jsd", "test_auc"))
        if x and y:
            appearance = style(results, method)
            axes.errorbar(
                x[0] * 1e3, y[0], xerr=x[1] * 1e3, yerr=y[1], **appearance, ms=7, lw=0.8, capsize=2
            )
            ends.append((method, x[0] * 1e3, y[0], appearance["color"]))
            seen += [(x[0] - x[1]) * 1e3 if x[1] < x[0] else x[0] * 1e3, (x[0] + x[1]) * 1e3]
    if not ends:
        return False
    interval = (results.get("noise_floor") or {}).get("jsd_interval")
    if interval:
        # A prediction interval may begin at 0, which a log axis cannot show.
        low, high = (max(value * 1e3, SMALLEST) for value in interval)
        seen += [low, high]
        axes.axvspan(low, high, color="#999999", alpha=0.25, lw=0)
        axes.annotate(
            "noise floor",
            (np.sqrt(low * high), 1.01),
            xycoords=("data", "axes fraction"),
            color=GRAY,
            ha="center",
            fontsize=9,
        )
    _log_axis(axes.xaxis, *_span(seen))
    axes.set_xlabel("JSD to Retrain × 1000 (left: closer to retraining)")
    axes.set_ylabel("test AUC")
    _label_right(axes, ends)
    return True


def times(results: Results, axes: Axes) -> bool:
    """Draw the seconds from request to release, and of the preparation before any request."""
    known = [m for m in reversed(methods(results)) if mean_and_std(results, m, "seconds")]
    if not known:
        return False
    seen = []
    for position, method in enumerate(known):
        for name, shift, alpha in (("seconds", 0.2, 1.0), ("prepare_seconds", -0.2, 0.3)):
            statistics = mean_and_std(results, method, name)
            if statistics and statistics[0] > 0:
                mean = statistics[0]
                seen.append(mean)
                axes.barh(
                    position + shift,
                    mean,
                    0.38,
                    color=style(results, method)["color"],
                    alpha=alpha,
                )
                text = f" {_seconds(mean)} s" + (" before" if shift < 0 else "")
                axes.annotate(
                    text,
                    (max(mean, SMALLEST), position + shift),
                    va="center",
                    fontsize=8,
                    color=GRAY,
                )
    axes.set_yticks(range(len(known)), known)
    # Extra room on the right for the numbers.
    low, high = _span(seen)
    _log_axis(axes.xaxis, low, high * (high / low) ** 0.12)
    axes.set_title("Time", loc="left")
    axes.set_xlabel(
        "seconds (log scale). Solid: from request to release; pale: once, before any request"
    )
    return True


def _seconds(value: float) -> str:
    if value < SMALLEST:
        return f"< {SMALLEST:g}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 -- three digits


def roc(results: Results, axes: Axes) -> bool:
    """Draw the membership attack's ROC curves, averaged over seeds; the diagonal is chance."""
    grid = np.geomspace(1e-3, 1, 100)
    axes.set_title("Membership attack on the forget rows", loc="left")
    axes.plot(grid, grid, color=GRAY, lw=1, ls="--")
    ends = []
    for method in methods(results):
        curves = [
            np.interp(grid, run["roc"]["fpr"], run["roc"]["tpr"])
            for run in results["runs"]
            if run["method"] == method and run.get("roc")
        ]
        if curves:
            mean, color = np.mean(curves, axis=0), style(results, method)["color"]
            ls = "-" if methods(results).index(method) < len(PALETTE) - 1 else "-."
            axes.plot(grid, mean, color=color, lw=1.5, ls=ls)
            # Labels are ordered by the rate at 5 % false positives, where the curves are far apart.
            at = int(np.searchsorted(grid, 0.05))
            ends.append((method, float(grid[-1]), float(mean[at]), color))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1e-3, 1)
    axes.set_ylim(1e-3, 1.05)
    axes.set_xlabel("false positive rate (rows of retrained models)")
    axes.set_ylabel("true positive rate (forget rows)")
    ordered = sorted(ends, key=lambda end: -end[2])
    for position, (method, _, height, color) in enumerate(ordered):
        axes.annotate(
            f"{method}  {height:.3f}",
            (1.02, 0.92 - 0.055 * position),
            xycoords="axes fraction",
            color=color,
            fontsize=9,
        )
    axes.annotate("rate at 5 %", (1.02, 0.98), xycoords="axes fraction", color=GRAY, fontsize=9)
    return bool(ends)


def users(results: Results, axes: Axes) -> bool:
    """Draw the JSD per forgotten user and method; Retrain against Retrain is the reference."""
    jsd_by_method = {
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
    known = [method for method in reversed(methods(results)) if len(jsd_by_method[method])]
    if not known:
        return False
    for position, method in enumerate(known):
        draw_box(axes, position, jsd_by_method[method], style(results, method)["color"])
    if len(jsd_by_method.get(RETRAIN, ())):
        low, high = np.quantile(jsd_by_method[RETRAIN], [0.05, 0.95])
        axes.axvspan(low, high, color="#999999", alpha=0.2, lw=0)
    _log_axis(axes.xaxis, *_span(np.concatenate(list(jsd_by_method.values())).tolist(), room=0.03))
    axes.set_title("Distance to retraining per user", loc="left")
    axes.set_yticks(range(len(known)), known)
    axes.set_xlabel(
        "JSD to Retrain × 1000 per user (box: half of them, whiskers: 90 %; gray: Retrain's 90 %)"
    )
    return True


PLOTS: Final[dict[str, Callable[[Results, Axes], bool]]] = {
    "pareto": pareto,
    "times": times,
    "membership": roc,
    "users": users,
    "distance": distance,
    "people": people,
    "exposure": exposure,
}
