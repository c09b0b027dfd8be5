"""Tables for people. Every function takes the same JSON that `--json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from app.cli.following import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHOWN_EXAMPLES: Final = 5
_PREDICTORS: Final = (
    ("model", "the model"),
    ("untuned", "the same model, untuned"),
    ("user_item_bias", "user + item bias"),
    ("item_mean", "item mean"),
)


def table(*columns: str, rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> Table:
    """Return a plain table; the columns with these indices hold numbers."""
    made = Table(
        box=None, pad_edge=False, padding=(0, 2), header_style="bold", show_header=any(columns)
    )
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in numbers else "left")
    for row in rows:
        # A Text, so that brackets in titles are not read as markup.
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def import_report(summary: dict[str, Any]) -> Table:
    """Return the account of an import: every line of the data set is in it."""
    rows = [
        ("lines read", summary["lines"], summary["format"]),
        ("ratings accepted", summary["accepted"], ""),
        ("descriptions of items or users", summary["described"], ""),
        ("duplicate ratings, the latest kept", summary["duplicates"], ""),
    ]
    rows += [(f"not stored: {reason}", count, "") for reason, count in summary["skipped"].items()]
    for group in summary["rejected"]:
        shown = ", ".join(group["examples"][:_SHOWN_EXAMPLES])
        more = ", …" if group["count"] > _SHOWN_EXAMPLES else ""
        rows.append((f"rejected: {group['reason']}", group["count"], shown + more))
    rows += [(f"{what} stored", summary[what], "") for what in ("users", "items", "interactions")]
    return table("", "count", "where", rows=[(n, f"{c:,}", w) for n, c, w in rows], numbers=(1,))


def training_report(training: dict[str, Any]) -> Table:
    """Return the model beside the baselines, on the same test rows."""
    test = training["test"]
    rows = [
        (
            name,
            f"{test[key]['auc']:.4f}",
            f"{test[key]['accuracy']:.4f}",
            f"{test[key]['log_loss']:.4f}",
        )
        for key, name in _PREDICTORS
        if key in test
    ]
    return table("test split", "AUC", "ACC", "LogLoss", rows=rows, numbers=(1, 2, 3))


def recommendations(answer: dict[str, Any]) -> Table:
    """Return the recommended items with their scores."""
    rows = [(item["rank"], f"{item['score']:.3f}", item["title"]) for item in answer["items"]]
    return table("", "P(likes)", "title", rows=rows, numbers=(0, 1))


def jobs(items: Sequence[dict[str, Any]]) -> Table:
    """Return jobs, one a line."""
    rows = [
        (
            job["id"],
            job["kind"],
            job["status"],
            job["stage"],
            f"{job['progress']:.0%}",
            job["method"],
            _moment(job["created_at"]),
        )
        for job in items
    ]
    return table("job", "kind", "status", "stage", "", "method", "created", rows=rows, numbers=(4,))


def releases(page: dict[str, Any]) -> Table:
    """Return releases, one a line, the live one marked."""
    rows = [
        (
            "→" if release["id"] == page["live"] else "",
            release["id"],
            release["status"],
            release["method"],
            release["outcome"] or "",
            release["parent"] or "",
            _moment(release["created_at"]),
        )
        for release in page["items"]
    ]
    return table("", "release", "status", "method", "audit", "parent", "created", rows=rows)


def facts(values: dict[str, Any]) -> Table:
    """Return names and values, one a line."""
    return table("", "", rows=[(name, _plain(value)) for name, value in values.items()])


def stage_seconds(seconds: dict[str, float]) -> Table:
    """Return how long each stage of a job took, one a line."""
    rows = [(STAGES.get(stage, stage), f"{spent:.1f} s") for stage, spent in seconds.items()]
    return table("", "", rows=rows, numbers=(1,))


def audit_report(figures: dict[str, Any]) -> Table:
    """Return the audit's figures with their intervals, in nats unless said otherwise."""
    rows = []
    for key, name in (
        ("forget", "forgotten rows: change in loss"),
        ("holdout", "holdout users: change in loss"),
        ("cohort", "holdout users: change in loss"),  # as earlier versions stored the figures
        ("movement", "forgotten less holdout"),
        ("test", "test rows: change in loss"),
    ):
        if key in figures:
            low, high = figures[key]["interval"]
            one = figures[key]
            rows.append((name, f"{one['mean']:+.4f}", f"{_edge(low)} … {_edge(high)}", one["rows"]))
    if "expected" in figures:
        span = f"{figures['floor']:+.4f} … {figures['ceiling']:+.4f}"
        mean = f"{figures['expected']['mean']:+.4f}"
        rows.append(("the gate: expected, and allowed", mean, span, ""))
    return table("", "mean", "95 % interval", "rows", rows=rows, numbers=(1, 2, 3))


def _edge(value: float | None) -> str:
    return "∞" if value is None else f"{value:+.4f}"


def _moment(value: Any) -> str:
    return str(value)[:19].replace("T", " ")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
