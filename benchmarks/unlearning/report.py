"""Render results.json as a Markdown table and as a terminal table. Missing keys become dashes.

The format of results.json:

    {"data": str | {"name": str, …}, "protocol": str, "backbone": str | {"kind": str, …},
     "noise_floor": {"jsd": float, "jsd_interval": [low, high],
                     "forget_loss_interval": [low, high]},
     "runs": [RUN, …], "summary": {method: {measure: {"mean": float, "std": float}}},
     "goals": [{"method": str, "goal": str, "met": bool | null, "numbers": str}, …],
     "plan": see `plan`, "options": {"methods", "seeds", "shadows"}}

A RUN has `method`, `seed` and, in nats, seconds and bytes, `test_auc`, `test_acc`, `test_logloss`,
`forget_auc`, `jsd`, `symmetrised_kl`, `l2`, `forget_loss`, `mia_auc`, `seconds`, `prepare_seconds`
(to train and calibrate the first release, before any request), `audit_seconds`,
`trainable_parameters` of `parameters`, `peak_bytes` (of the unlearning process, libraries and data
included) and `peak_added_bytes` (the part that unlearning added), and:

- `mia_advantage`, `mia_tpr_at_1`, `mia_tpr_at_5` and `loss_mia_auc`: the other
  fields of `models.audit.lira.Attack` (`auc` is `mia_auc`), and the uncalibrated attack's AUC.
- `roc`: {"fpr": [≤ 100 floats], "tpr": [same length]}, its ROC curve (`Attack.roc()`).
- `relearn_steps` (int; cap + 1 if `relearn_censored` is true: not relearned within the cap).
- `user_jsd_worst`, `user_jsd_p95`, `user_loss_gap_worst`, `user_loss_gap_p95`:
  `models.audit.divergence.PerUser.summary()`.
- `per_user`: {"rows": [U ints], "jsd": [U floats], "loss_gap": [U floats]}, one entry per forgotten
  user, in the same order in every run (`PerUser.arrays()`), without ids.
- `audit`: {"outcome", "reason"} of the product's audit; the outcome is null if it was only timed.
- `batches`, if the protocol has several: {"users", "rows", "seconds", "forget_loss", "jsd"} after
  each batch. `rows`, `forget_loss` and `jsd` cover all rows forgotten so far. `seconds` and
  `audit_seconds` of the run are per batch.
- `config`, `data_sha256`, `versions`: configuration, data and library versions.

A failed run has only `method`, `seed`, `error`, `data_sha256` and `versions`.

Distances and attacks of a Retrain run refer to the other Retrain runs. This module computes ratios
to Retrain (seconds, relearning) from the mean of the Retrain runs. If `summary` is absent or
partial, the missing values are computed from `runs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.table import Table

from benchmarks.unlearning.names import RETRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Results = Mapping[str, Any]

DASH: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Column of the tables; `terminal` is the heading in the terminal table, if shown there."""

    heading: str
    measure: str
    scale: float = 1.0
    digits: int = 4
    terminal: str = ""


COLUMNS: Final = (
    Column(heading="test AUC", measure="test_auc", terminal="test\nAUC"),
    Column(heading="test ACC", measure="test_acc"),
    Column(heading="test LogLoss", measure="test_logloss"),
    Column(heading="forget AUC", measure="forget_auc", terminal="forget\nAUC"),
    Column(heading="JSD × 1000", measure="jsd", scale=1e3, digits=2, terminal="JSD\n×1000"),
    Column(heading="sym. KL × 1000", measure="symmetrised_kl", scale=1e3, digits=2),
    Column(heading="L2", measure="l2"),
    Column(heading="forget loss", measure="forget_loss", terminal="forget\nloss"),
    Column(heading="MIA AUC", measure="mia_auc", digits=3, terminal="MIA"),
    Column(heading="relearn steps ÷ Retrain", measure="relearn_ratio", digits=2),
    Column(heading="worst user, JSD × 1000", measure="user_jsd_worst", scale=1e3, digits=1),
    Column(heading="seconds", measure="seconds", digits=1, terminal="seconds"),
    Column(heading="÷ Retrain", measure="seconds_ratio", digits=3, terminal="÷\nRetrain"),
    Column(heading="prepare seconds", measure="prepare_seconds", digits=1),
    Column(heading="audit seconds", measure="audit_seconds", digits=1),
    Column(heading="trainable parameters", measure="trainable_parameters", digits=0),
    Column(heading="peak MiB", measure="peak_bytes", scale=1 / 2**20, digits=0),
    Column(heading="of it added", measure="peak_added_bytes", scale=1 / 2**20, digits=0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a method is as good as retraining (None: unknown), and the reason if not."""

    good: bool | None
    reason: str

    def text(self) -> str:
        """Return the text of a table cell."""
        return {True: "yes", False: f"no: {self.reason}", None: DASH}[self.good]


def methods(results: Results) -> list[str]:
    """Return the methods in the order of their first runs."""
    return list(dict.fromkeys(str(run["method"]) for run in results.get("runs", ())))


def values(results: Results, method: str, measure: str) -> list[float]:
    """Return the finite values of a measure over the runs of a method."""
    raw = [run.get(measure) for run in results.get("runs", ()) if run["method"] == method]
    return [float(value) for value in raw if value is not None and math.isfinite(value)]


def mean_and_std(results: Results, method: str, measure: str) -> tuple[float, float] | None:
    """Return mean and standard deviation over seeds, or None if unknown."""
    for ratio, base in (("relearn_ratio", "relearn_steps"), ("seconds_ratio", "seconds")):
        if measure == ratio:
            own = mean_and_std(results, method, base)
            retrain = mean_and_std(results, RETRAIN, base)
            if not (own and retrain and retrain[0]):
                return None
            return own[0] / retrain[0], own[1] / retrain[0]
    summary = (results.get("summary") or {}).get(method, {}).get(measure)
    if summary and summary.get("mean") is not None:
        return float(summary["mean"]), float(summary.get("std") or 0.0)
    measured = values(results, method, measure)
    if not measured:
        return None
    std = float(np.std(measured, ddof=1)) if len(measured) > 1 else 0.0
    return float(np.mean(measured)), std


def verdict(results: Results, method: str) -> Verdict:
    """Compare JSD with the noise floor's interval and forget loss with Retrain's range.

    A JSD below the interval is accepted. Averaged models can have a JSD below the floor without
    forgetting; for them the forget loss decides. Retrain is the reference and has no verdict.
    """
    floor = results.get("noise_floor") or {}
    interval, losses = floor.get("jsd_interval"), floor.get("forget_loss_interval")
    jsd = mean_and_std(results, method, "jsd")
    loss = mean_and_std(results, method, "forget_loss")
    if method == RETRAIN or not (interval and losses and jsd and loss):
        return Verdict(good=None, reason="the reference, or not measured")
    faults = (
        (jsd[0] > interval[1], f"JSD {jsd[0] * 1e3:.2f} > {interval[1] * 1e3:.2f}"),
        (loss[0] < losses[0], f"loss {loss[0]:.4f} < {losses[0]:.4f}, not forgotten"),
        (loss[0] > losses[1], f"loss {loss[0]:.4f} > {losses[1]:.4f}, forgotten too much"),
    )
    reasons = [reason for applies, reason in faults if applies]
    return Verdict(good=not reasons, reason="; ".join(reasons))


def failures(results: Results) -> list[str]:
    """Return a line per failed run."""
    return [
        f"{run['method']} seed {run['seed']} failed: {run['error']}"
        for run in results.get("runs", ())
        if "error" in run
    ]


def _as_good(results: Results, method: str) -> str:
    """Return the verdict for a table, with the number of failed runs."""
    own = [run for run in results.get("runs", ()) if run["method"] == method]
    failed = sum("error" in run for run in own)
    if failed == len(own):
        return "failed"
    text = verdict(results, method).text()
    return f"{text}; {failed} of {len(own)} failed" if failed else text


def _cell(results: Results, method: str, column: Column, *, spread: bool) -> str:
    statistics = mean_and_std(results, method, column.measure)
    if statistics is None:
        return DASH
    mean, std = (value * column.scale for value in statistics)
    text = f"{mean:,.{column.digits}f}"
    # A run that did not relearn within the cap counts as cap + 1 steps, so this is a lower bound.
    if column.measure == "relearn_ratio" and any(
        run.get("relearn_censored") for run in results["runs"] if run["method"] == method
    ):
        text = f"≥ {text}"
    return f"{text} ± {std:,.{column.digits}f}" if spread and std else text


def caption(results: Results) -> str:
    """Return the caption: data, protocol, backbone, noise floor and Retrain's loss range."""
    floor = results.get("noise_floor") or {}

    def interval(name: str, scale: float, digits: int) -> str:
        bounds = floor.get(name)
        if not bounds:
            return DASH
        return " to ".join(f"{value * scale:.{digits}f}" for value in bounds)

    jsd = f"{floor['jsd'] * 1e3:.2f}" if floor.get("jsd") is not None else DASH
    return (
        f"{_name(results.get('data'))}, protocol {results.get('protocol', DASH)}, backbone "
        f"{_name(results.get('backbone'))}. Mean ± standard deviation over seeds. Noise floor (JSD "
        f"× 1000 between Retrain runs): {jsd}, interval {interval('jsd_interval', 1e3, 2)}. Forget "
        f"loss of the Retrain runs: {interval('forget_loss_interval', 1, 4)}. As good as "
        "retraining: JSD not above that interval, forget loss within that range."
        f"{_per_batch(results)}"
    )


def _per_batch(results: Results) -> str:
    data = results.get("data")
    batches = data.get("rows", {}).get("batches", 1) if isinstance(data, dict) else 1
    return f" Seconds are per batch, of {batches}." if batches > 1 else ""


def _name(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name") or value.get("kind") or value.get("path") or DASH)
    return str(value or DASH)


def markdown_table(results: Results) -> str:
    """Return the table with all columns, the caption, goals and failures as Markdown."""
    header = ["method", *(column.heading for column in COLUMNS), "as good as retraining"]
    lines = [header, ["---", *("---:" for _ in COLUMNS), "---"]]
    lines += [
        [
            method,
            *(_cell(results, method, column, spread=True) for column in COLUMNS),
            _as_good(results, method),
        ]
        for method in methods(results)
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"- {line}\n" for line in [*goal_lines(results), *failures(results)])
    return f"{table}\n\n{caption(results)}\n" + (f"\n{notes}" if notes else "")


def goal_lines(results: Results) -> list[str]:
    """Return a line per goal: method, goal, whether the goal is met, and the numbers."""
    texts = {True: "met", False: "not met", None: DASH}
    return [
        f"{goal['method']}, {goal['goal']}: {texts[goal['met']]} ({goal['numbers']})"
        for goal in results.get("goals") or ()
    ]


def terminal_table(results: Results) -> Table:
    """Return the most important columns, for 80 to 120 characters."""
    table = Table(
        caption=caption(results),
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1),
        header_style="bold",
    )
    table.add_column("method", no_wrap=True)
    shown = [column for column in COLUMNS if column.terminal]
    for column in shown:
        table.add_column(column.terminal, justify="right", no_wrap=True)
    table.add_column("as good as\nretraining", min_width=10)
    for method in methods(results):
        table.add_row(
            method,
            *(_cell(results, method, column, spread=False) for column in shown),
            _as_good(results, method),
        )
    return table


def write_table(results: Results, out: Path) -> None:
    """Write `table.md` into a directory."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown_table(results), encoding="utf-8")
