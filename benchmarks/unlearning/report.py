"""Turns results.json into what people read: a Markdown table, plots, and a table on the terminal.

Knows the shape of the results and nothing of models; a key that is missing becomes a dash.

    {"data": str | {"name": str, …}, "protocol": str, "backbone": str | {"kind": str, …},
     "noise_floor": {"jsd": float, "jsd_interval": [low, high],
                     "forget_loss_interval": [low, high]},
     "runs": [RUN, …], "summary": {method: {measure: {"mean": float, "std": float}}},
     "goals": [{"method": str, "goal": str, "met": bool | null, "numbers": str}, …],
     "plan": what runs in one folder share, "options": {"methods", "seeds", "shadows"}}

A RUN has `method`, `seed` and, in nats, seconds and bytes, `test_auc`, `test_acc`, `test_logloss`,
`forget_auc`, `jsd`, `symmetrised_kl`, `l2`, `forget_loss`, `mia_auc`, `seconds`, `prepare_seconds`
(what the method needs before any request: its release, its shadows), `audit_seconds`,
`trainable_parameters` of `parameters`, `peak_bytes` (of the unlearning process, libraries and data
included) and `peak_added_bytes` (of that, what the unlearning added), and:

- `mia_advantage`, `mia_tpr_at_1`, `mia_tpr_at_5` and `loss_mia_auc`: the rest of
  `models.audit.lira.Attack` (`auc` is `mia_auc`) and the uncalibrated attack's AUC.
- `roc`: {"fpr": [≤ 100 floats], "tpr": [as many]}, the curve of that attack (`Attack.roc()`).
- `relearn_steps` (int; cap + 1 where `relearn_censored` is true: not regained within the cap).
- `user_jsd_worst`, `user_jsd_p95`, `user_loss_gap_worst`, `user_loss_gap_p95`:
  `models.audit.divergence.PerUser.summary()`.
- `per_user`: {"rows": [U ints], "jsd": [U floats], "loss_gap": [U floats]}, one entry per forgotten
  user in the same order in every run (`PerUser.arrays()`); no ids.
- `audit`: {"outcome", "reason"} of the product's own audit; the outcome is null where it was only
  timed.
- `batches`, under a protocol of several: {"users", "rows", "seconds", "forget_loss", "jsd"} after
  each, `rows` and what follows of all that is forgotten by then. `seconds` and `audit_seconds` of
  such a run are per batch.
- `config`, `data_sha256`, `versions`: what it was made with, of and by.

A run that failed has `method`, `seed`, `error`, `data_sha256` and `versions` alone.

A Retrain run's distances and attack are those against the other Retrain runs. Ratios to Retrain
(seconds, relearning) are taken here, from the mean of its runs. `summary` may be absent or partial:
what it lacks is taken from `runs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Results = Mapping[str, Any]

DASH: Final = "–"
RETRAIN: Final = "retrain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One measure: its heading, how it is scaled and rounded, and whether a terminal has room."""

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
    """Whether a method is as good as retraining (None: cannot be told), and why not."""

    good: bool | None
    reason: str

    def text(self) -> str:
        """Return a mark for a table."""
        return {True: "yes", False: f"no: {self.reason}", None: DASH}[self.good]


def methods(results: Results) -> list[str]:
    """Return the methods in the order of their first runs."""
    return list(dict.fromkeys(str(run["method"]) for run in results.get("runs", ())))


def values(results: Results, method: str, measure: str) -> list[float]:
    """Return a measure of each run of a method that has it and where it is a number."""
    found = [run.get(measure) for run in results.get("runs", ()) if run["method"] == method]
    return [float(value) for value in found if value is not None and math.isfinite(value)]


def mean_and_std(results: Results, method: str, measure: str) -> tuple[float, float] | None:
    """Return mean and spread over seeds, from the summary or else the runs; None where unknown."""
    for ratio, base in (("relearn_ratio", "relearn_steps"), ("seconds_ratio", "seconds")):
        if measure == ratio:
            mine = mean_and_std(results, method, base)
            whole = mean_and_std(results, RETRAIN, base)
            return (mine[0] / whole[0], mine[1] / whole[0]) if mine and whole and whole[0] else None
    found = (results.get("summary") or {}).get(method, {}).get(measure)
    if found and found.get("mean") is not None:
        return float(found["mean"]), float(found.get("std") or 0.0)
    seen = values(results, method, measure)
    if not seen:
        return None
    return float(np.mean(seen)), float(np.std(seen, ddof=1)) if len(seen) > 1 else 0.0


def verdict(results: Results, method: str) -> Verdict:
    """Compare JSD with the noise floor's interval and the forget loss with Retrain's range.

    A JSD below the interval is no fault: against models that undercut the floor by averaging, the
    loss on the forget rows decides. Retrain is the reference and has no verdict.
    """
    floor = results.get("noise_floor") or {}
    interval, losses = floor.get("jsd_interval"), floor.get("forget_loss_interval")
    jsd = mean_and_std(results, method, "jsd")
    loss = mean_and_std(results, method, "forget_loss")
    if method == RETRAIN or not (interval and losses and jsd and loss):
        return Verdict(good=None, reason="the reference, or not measured")
    faults = (
        (jsd[0] > interval[1], f"JSD {jsd[0] * 1e3:.2f} > {interval[1] * 1e3:.2f}"),
        (loss[0] < losses[0], f"loss {loss[0]:.4f} < {losses[0]:.4f}, it still knows"),
        (loss[0] > losses[1], f"loss {loss[0]:.4f} > {losses[1]:.4f}, overdone"),
    )
    reasons = [reason for applies, reason in faults if applies]
    return Verdict(good=not reasons, reason="; ".join(reasons))


def failures(results: Results) -> list[str]:
    """Return a line per run that failed: which, and why."""
    return [
        f"{run['method']} seed {run['seed']} failed: {run['error']}"
        for run in results.get("runs", ())
        if "error" in run
    ]


def _as_good(results: Results, method: str) -> str:
    """Return the verdict for a table; runs that failed are counted, not hidden."""
    own = [run for run in results.get("runs", ()) if run["method"] == method]
    failed = sum("error" in run for run in own)
    if failed == len(own):
        return "failed"
    text = verdict(results, method).text()
    return f"{text}; {failed} of {len(own)} failed" if failed else text


def _cell(results: Results, method: str, column: Column, *, spread: bool) -> str:
    found = mean_and_std(results, method, column.measure)
    if found is None:
        return DASH
    mean, std = (value * column.scale for value in found)
    text = f"{mean:,.{column.digits}f}"
    # Steps of a run that never got there count as cap + 1: the ratio is at least this.
    if column.measure == "relearn_ratio" and any(
        run.get("relearn_censored") for run in results["runs"] if run["method"] == method
    ):
        text = f"≥ {text}"
    return f"{text} ± {std:,.{column.digits}f}" if spread and std else text


def caption(results: Results) -> str:
    """Return what the distances are to be read against, in one paragraph."""
    floor = results.get("noise_floor") or {}

    def interval(name: str, scale: float, digits: int) -> str:
        found = floor.get(name)
        return " to ".join(f"{value * scale:.{digits}f}" for value in found) if found else DASH

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
    """Return the whole table with its caption as Markdown."""
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
    reached = "".join(f"- {line}\n" for line in [*goal_lines(results), *failures(results)])
    return f"{table}\n\n{caption(results)}\n" + (f"\n{reached}" if reached else "")


def goal_lines(results: Results) -> list[str]:
    """Return a line per goal: whose, whether it is met, and the numbers."""
    words = {True: "met", False: "not met", None: DASH}
    return [
        f"{found['method']}, {found['goal']}: {words[found['met']]} ({found['numbers']})"
        for found in results.get("goals") or ()
    ]


def terminal_table(results: Results) -> Table:
    """Return the most telling columns; fits 80 characters, better 120."""
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


def write_report(results: Results, out: Path) -> None:
    """Write `table.md` and the plots, as PNG and SVG, into a folder; raises MissingPlotsError."""
    from benchmarks.unlearning import plots  # noqa: PLC0415 -- the table needs no matplotlib

    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown_table(results), encoding="utf-8")
    plots.write_plots(results, out)
