"""Colors and markers of the plots, the same for a method in every plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.figures import methods
from benchmarks.unlearning.names import RETRAIN

if TYPE_CHECKING:
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
