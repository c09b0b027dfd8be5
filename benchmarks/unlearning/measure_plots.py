"""Draw the measures over seeds: systematic distance, distance per person, and exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.figures import mean_and_std, measure, methods
from benchmarks.unlearning.goals import MAX_DISTANCE_SHARE
from benchmarks.unlearning.names import ORIGINAL, RETRAIN
from benchmarks.unlearning.plot_style import GRAY, draw_box, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.unlearning.figures import Results

#: Largest ratio of the highest to a typical value on a linear axis.
MAX_LINEAR: Final = 5.0


def distance(results: Results, axes: Axes) -> bool:
    """Draw the systematic distances with intervals; the line is the limit of the verdict."""
    known = _measured(results, "systematic")
    if not known:
        return False
    for position, method in enumerate(known):
        values: dict[str, Any] = measure(results, method, "systematic")
        center = values["distance"] * 1e3
        ends = [values[end] for end in ("low", "high") if values[end] is not None]
        axes.plot([center], [position], **style(results, method), ms=8, ls="")
        if ends:
            axes.plot(
                [end * 1e3 for end in ends],
                [position, position],
                color=style(results, method)["color"],
                lw=1.5,
            )
    axes.axvline(0, color=GRAY, lw=1)
    original = measure(results, ORIGINAL, "systematic", "distance")
    if original:
        axes.axvline(MAX_DISTANCE_SHARE * original * 1e3, color=GRAY, lw=1, ls="--")
    highest = max(abs(measure(results, method, "systematic", "distance")) for method in known)
    _scale(axes, abs(original or highest) * 1e3, highest * 1e3)
    axes.set_title("Systematic distance to retraining", loc="left")
    axes.set_yticks(range(len(known)), known)
    axes.set_xlabel(
        "squared difference of mean margins × 1000, without seed noise "
        f"(dashed: {MAX_DISTANCE_SHARE:.0%} of Original's)"
    )
    return True


def people(results: Results, axes: Axes) -> bool:
    """Draw the systematic distance of every person as box plots."""
    known = _measured(results, "per_person")
    if not known:
        return False
    for position, method in enumerate(known):
        distances = measure(results, method, "per_person", "distance")
        draw_box(
            axes, position, [value * 1e3 for value in distances], style(results, method)["color"]
        )
    axes.axvline(0, color=GRAY, lw=1)
    reference = known[0] if ORIGINAL not in known else ORIGINAL
    spread = measure(results, reference, "per_person", "quantiles")
    highest = max(max(measure(results, m, "per_person", "distance")) for m in known)
    _scale(axes, max(abs(value) for value in spread.values()) * 1e3, highest * 1e3)
    axes.set_title("Systematic distance per person", loc="left")
    axes.set_yticks(range(len(known)), known)
    axes.set_xlabel("squared difference of mean margins × 1000 (whiskers: 5 to 95 % of the people)")
    return True


def exposure(results: Results, axes: Axes) -> bool:
    """Draw the exposure of the forgotten people's items, for them and for other people."""
    names = (("exposure_person", 0.2, 1.0), ("exposure_others", -0.2, 0.4))
    known = [
        method
        for method in reversed(methods(results))
        if any(mean_and_std(results, method, name) for name, _, _ in names)
    ]
    if not known:
        return False
    for position, method in enumerate(known):
        for name, shift, alpha in names:
            statistics = mean_and_std(results, method, name)
            if statistics:
                axes.barh(
                    position + shift,
                    statistics[0],
                    0.38,
                    xerr=statistics[1],
                    color=style(results, method)["color"],
                    alpha=alpha,
                )
    for name, _, alpha in names:
        retrained = mean_and_std(results, RETRAIN, name)
        if retrained:
            axes.axvline(retrained[0], color=GRAY, lw=1, alpha=alpha)
    axes.set_title("Exposure of the forgotten people's items", loc="left")
    axes.set_yticks(range(len(known)), known)
    axes.set_xlabel("share of the items in the top 10 (solid: the person; pale: other people)")
    return True


def _scale(axes: Axes, typical: float, highest: float) -> None:
    """Use a log scale beyond `typical` if the highest value is far beyond."""
    if typical > 0 and highest > MAX_LINEAR * typical:
        axes.set_xscale("symlog", linthresh=typical)


def _measured(results: Results, name: str) -> list[str]:
    return [m for m in reversed(methods(results)) if measure(results, m, name) is not None]
