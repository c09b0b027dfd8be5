"""Colors, markers and boxes of the plots, the same for a method in every plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.figures import methods
from benchmarks.unlearning.names import RETRAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from benchmarks.unlearning.figures import Results

#: Okabe and Ito's palette for color-blind readers; markers repeat the distinction.
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = "os^Dv<>PX*h"
GRAY: Final = "#666666"


def style(results: Results, method: str) -> dict[str, Any]:
    """Return the color and the marker of a method."""
    index = methods(results).index(method)
    if method == RETRAIN:
        return {"color": "#000000", "marker": "*"}
    return {"color": PALETTE[index % (len(PALETTE) - 1)], "marker": MARKERS[index % len(MARKERS)]}


def draw_box(axes: Axes, position: int, values: ArrayLike, color: str) -> None:
    """Draw a horizontal box of the values, with whiskers from the 5 % to the 95 % quantile."""
    axes.boxplot(
        [values],
        positions=[position],
        orientation="horizontal",
        widths=0.6,
        whis=(5, 95),
        flierprops={"marker": ".", "ms": 3, "mec": color},
        boxprops={"color": color},
        medianprops={"color": color, "lw": 2},
        whiskerprops={"color": color},
        capprops={"color": color},
    )
