"""Render the measures over seeds as Markdown tables: forgetting, people, and quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.figures import mean_of, measure, methods
from benchmarks.unlearning.names import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.unlearning.figures import Results

    Cell = Callable[[Results, str], str]

DASH: Final = "–"
NOT_MEASURED: Final = (
    "Systematic distance, membership with control rows, differences with intervals, rankings and "
    "exposure: not measured (results of an earlier version)."
)
POWER_UNKNOWN: Final = (
    "The power was not measured: it needs three seeds of Original and six Retrain runs."
)
ATTACK_NOTE: Final = (
    "The attack on test rows (control) detects differences between models only. Exposure: share of "
    "the items that a forgotten person liked among the ten best of these items and 100 items that "
    "the first stage proposes to the asking user; differences are from the mean of Retrain."
)
QUALITY_NOTE: Final = (
    "Differences are from Original's run of the same seed, with 95 % intervals. NDCG and Recall: "
    "test rows of a user (at most 50, of at most 200 users) among 100 items that the first stage "
    "proposes to the user and that the user never rated."
)


def measure_tables(results: Results) -> str:
    """Return the tables; for results of earlier versions, one line that says what is missing."""
    if not results.get("measures"):
        return f"{NOT_MEASURED}\n"
    parts = [
        "## Distance to retraining without seed noise",
        _table(results, _DISTANCE),
        power_note(results),
        "## Membership and exposure",
        _table(results, _ATTACK),
        ATTACK_NOTE,
        "## Quality",
        _table(results, _QUALITY),
        QUALITY_NOTE,
    ]
    return "\n\n".join(parts) + "\n"


def power_note(results: Results) -> str:
    """Say whether the distance can tell Original from Retrain, and Retrain from nothing."""
    control = results.get("control") or {}
    people = measure(results, ORIGINAL, "systematic") or control.get("systematic") or {}
    text = ""
    if people.get("rows"):
        text = (
            f"{people['rows']:,} rows of {people['people']} people, who count as "
            f"{people['effective_people']:.0f} (effective number). "
        )
    if control.get("coverage") is not None:
        text += (
            f"Retrain against other Retrain runs ({control['size']} of {control['runs']} retrained "
            f"models against the others, "
            f"{control['splits']} splits): {control['coverage']:.0%} of the intervals cover 0. "
        )
    has_power = control.get("has_power")
    if has_power is None:
        return f"{text}{POWER_UNKNOWN}"
    if has_power:
        return f"{text}The distance has power: Original is rejected and Retrain is not."
    reasons = [
        reason
        for reason, applies in (
            ("Original's interval contains 0.", not control.get("original_rejected")),
            ("Retrain is rejected too often.", not control.get("covers_zero")),
        )
        if applies
    ]
    return f"{text}**The distance has no power on these data:** {' '.join(reasons)}"


def _table(results: Results, columns: Sequence[tuple[str, Cell]]) -> str:
    header = ["method", *(heading for heading, _ in columns)]
    lines = [header, ["---", *("---:" for _ in columns)]]
    lines += [
        [method, *(cell(results, method) for _, cell in columns)] for method in methods(results)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(*keys: str, digits: int, scale: float = 1.0) -> Cell:
    def cell(results: Results, method: str) -> str:
        value = measure(results, method, *keys)
        return DASH if value is None else f"{value * scale:.{digits}f}"

    return cell


def _figure(name: str, digits: int) -> Cell:
    def cell(results: Results, method: str) -> str:
        value = mean_of(results, method, name)
        return DASH if value is None else f"{value:.{digits}f}"

    return cell


def _interval(
    key: str, digits: int, *, center: str = "mean", scale: float = 1.0, signed: bool = True
) -> Cell:
    def cell(results: Results, method: str) -> str:
        return interval_text(
            measure(results, method, key), digits, center=center, scale=scale, signed=signed
        )

    return cell


def interval_text(
    values: dict[str, Any] | None,
    digits: int,
    *,
    center: str = "mean",
    scale: float = 1.0,
    signed: bool = True,
) -> str:
    """Return "mean (low to high)"; without an interval, the mean and a mark."""
    if not values or values.get(center) is None:
        return DASH
    sign = "+" if signed else ""
    text = f"{values[center] * scale:{sign}.{digits}f}"
    if values.get("low") is None:
        return f"{text} (no interval)"
    ends = (f"{values[end] * scale:{sign}.{digits}f}" for end in ("low", "high"))
    return f"{text} ({' to '.join(ends)})"


def _share_of_original(results: Results, method: str) -> str:
    distance, high = (measure(results, method, "systematic", key) for key in ("distance", "high"))
    original = measure(results, ORIGINAL, "systematic", "distance")
    if distance is None or not original or original <= 0:
        return DASH
    text = f"{distance / original:.0%}"
    return text if high is None else f"{text} (at most {high / original:.0%})"


def _line(name: str) -> Cell:
    def cell(results: Results, method: str) -> str:
        line = measure(results, method, "line")
        if not line:
            return DASH
        text, ends = f"{line[name]:.3f}", line[f"{name}_interval"]
        return text if not ends else f"{text} ({ends[0]:.3f} to {ends[1]:.3f})"

    return cell


def _people(results: Results, method: str) -> str:
    quantiles = measure(results, method, "per_person", "quantiles")
    if not quantiles:
        return DASH
    shown = [f"{quantiles[key] * 1e3:.0f}" for key in ("0.05", "0.5", "0.95")]
    return " / ".join(shown)


_DISTANCE: Final[tuple[tuple[str, Cell], ...]] = (
    ("seeds", _number("seeds", digits=0)),
    (
        "systematic distance × 1000 (95 %)",
        _interval("systematic", 1, center="distance", scale=1e3, signed=False),
    ),
    ("of Original's", _share_of_original),
    ("per person × 1000: mean", _number("per_person", "mean", digits=1, scale=1e3)),
    ("5 / 50 / 95 %", _people),
    ("variance ÷ Retrain", _number("variance_ratio", digits=2)),
    ("slope over Retrain", _line("slope")),
    ("offset", _line("offset")),
)
_ATTACK: Final[tuple[tuple[str, Cell], ...]] = (
    ("attack AUC (95 % over seeds)", _interval("attack", 3, center="auc", signed=False)),
    ("TPR at 1 % FPR", _number("attack", "tpr_at_1", digits=3)),
    ("control AUC", _number("attack", "control_auc", digits=3)),
    ("control TPR", _number("attack", "control_tpr_at_1", digits=3)),
    ("references", _number("attack", "references", digits=0)),
    ("exposure, person", _figure("exposure_person", 3)),
    ("less Retrain's", _interval("exposure_person_difference", 3)),
    ("exposure, others", _figure("exposure_others", 3)),
    ("less Retrain's ", _interval("exposure_others_difference", 3)),
)
_QUALITY: Final[tuple[tuple[str, Cell], ...]] = (
    ("log loss difference", _interval("test_logloss_difference", 4)),
    ("calibration error", _figure("test_calibration_error", 4)),
    ("difference", _interval("test_calibration_error_difference", 4)),
    ("NDCG@10", _figure("ndcg_at_10", 4)),
    ("difference ", _interval("ndcg_at_10_difference", 4)),
    ("Recall@10", _figure("recall_at_10", 4)),
    ("difference  ", _interval("recall_at_10_difference", 4)),
)
