"""Render results.json as a Markdown table and as a terminal table. Missing keys become dashes.

The format of results.json:

    {"data": str | {"name": str, …}, "protocol": str, "backbone": str | {"kind": str, …},
     "noise_floor": {"jsd": float, "jsd_interval": [low, high],
                     "forget_loss_interval": [low, high], "intervals": "95 % prediction"},
     "runs": [RUN, …], "summary": {method: {measure: {"mean": float, "std": float}}},
     "goals": [{"method": str, "goal": str, "met": bool | null, "numbers": str}, …],
     "measures": {method: MEASURES, …}, "control": CONTROL,
     "plan": see `plan`, "options": {"methods", "seeds", "shadows", "retrain_runs"}}

Results of earlier versions have neither `measures` nor `control`, and the intervals of the noise
floor are then ranges of the Retrain runs.

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
- `test_calibration_error`: `models.audit.prediction.calibration_error` on the test rows.
- The attack needs an Original run of another seed; without one its fields are missing.
- `mia_references` (number of models), `mia_control_auc`, `mia_control_tpr_at_1`: the attack on the
  test rows, which no model was trained on.
- `ndcg_at_10`, `recall_at_10`, `exposure_person`, `exposure_others`: see `queries`; shares of 1.
- `config`, `data_sha256`, `versions`: configuration, data and library versions.

MEASURES are taken over all seeds of a method; an INTERVAL is {"mean", "low", "high"} (95 %):

- `seeds`: the number of runs.
- `systematic`: `models.audit.systematic.Distance` to Retrain (squared logits); of Retrain, see
  CONTROL. `per_person`: {"rows" [P], "distance" [P], "mean", "quantiles", "people",
  "effective_people"}, without ids.
- `variance_ratio` to Retrain; `line`: `models.audit.margin_line.Line` over Retrain's mean margin.
  `per_person` and `line` of Retrain compare the first `size` of CONTROL's `runs` with the others
  (null in results of earlier versions).
- `attack`: {"auc", "low", "high", "excess", "tpr_at_1", "control_auc", "control_tpr_at_1",
  "references"}, means over seeds; `excess` is |auc - .5| above that of Retrain.
- `forget_loss_interval`: 95 % prediction interval of the mean of as many Retrain runs.
- `test_logloss_difference` (nats), `test_calibration_error_difference`, `ndcg_at_10_difference`,
  `recall_at_10_difference`: INTERVAL of the difference from Original's run of the same seed.
- `exposure_person_difference`, `exposure_others_difference`: INTERVAL, from the mean of Retrain.

Retrain's side of the distances has the Retrain runs and, unless batches are independent, the shadow
models. CONTROL compares `size` of these `runs` with the others, in `splits` splits:
`systematic` has the mean distance and the mean ends of the intervals, `coverage` is the share of
intervals that cover 0, `covers_zero` whether that share suffices, `quantiles` the 95 % range of
the distances. `original_rejected`: Original's interval is above 0. `has_power`: both.

A failed run has only `method`, `seed`, `error`, `data_sha256` and `versions`.

Distances and attacks of a Retrain run refer to the other Retrain runs. This module computes ratios
to Retrain (seconds, relearning) from the mean of the Retrain runs. If `summary` is absent or
partial, the missing values are computed from `runs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from benchmarks.unlearning.figures import mean_and_std, methods
from benchmarks.unlearning.goals import DEFINITION, verdict
from benchmarks.unlearning.measure_table import DASH, measure_tables
from benchmarks.unlearning.names import RETRAIN

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.unlearning.figures import Results


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
    text = DASH if method == RETRAIN else verdict(results, method).text()
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
    """Return the caption: data, protocol, backbone, noise floor and the interval of the loss."""
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
        f"loss of a further Retrain run: {interval('forget_loss_interval', 1, 4)}."
        f"{_intervals(results)}{_per_batch(results)}"
    )


def _intervals(results: Results) -> str:
    kind = (results.get("noise_floor") or {}).get("intervals")
    if kind:
        return f" Intervals: {kind}. {DEFINITION}"
    return " These intervals are the range of the Retrain runs, from an earlier version."


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
    text = f"{table}\n\n{caption(results)}\n" + (f"\n{notes}" if notes else "")
    return f"{text}\n{measure_tables(results)}"


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
