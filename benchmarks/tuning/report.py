"""Format the trials of tuned methods as a Markdown table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLUMNS = (
    "method",
    "trial",
    "settings",
    "seeds",
    "distance × 1000",
    "of Original's",
    "forget loss",
    "test log loss less Original's",
    "steps",
)


def trial_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one line per trial; the best trial of each method is bold."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    for result in results:
        original = result["original"]
        for record in result["trials"]:
            cells = _cells(record, original["distance"])
            if record["trial"] == result["best"]:
                cells = [f"**{cell}**" for cell in cells]
            lines.append(_line([f"`{result['method']}`", *cells]))
        lines += [
            _line([f"`{result['method']}`", str(number), *["not run"], *["–"] * 6])
            for number in result["not_run"]
        ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(record: Mapping[str, Any], original: float) -> list[str]:
    settings = ", ".join(f"{name} {value:g}" for name, value in record["settings"].items())
    head = [str(record["trial"]), settings, str(record["seeds"])]
    if record["distance"] is None:
        return [*head, "diverged", "–", "–", "–", "–"]
    distance = f"{1000 * record['distance']:.1f}"
    if record.get("search_distance") is not None:
        distance += f" (search: {1000 * record['search_distance']:.1f})"
    return [
        *head,
        distance,
        f"{record['distance'] / original:.0%}".replace("%", " %"),
        f"{record['forget_loss']:.4f}",
        f"{record['test_logloss_difference']:+.4f}",
        ", ".join("–" if steps is None else str(steps) for steps in record["steps"]),
    ]
