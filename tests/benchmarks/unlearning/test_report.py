"""Tables and plots of the results, with dashes for missing figures."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.unlearning import plots
from benchmarks.unlearning.report import markdown_table, terminal_table, verdict, write_table

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["original", "retrain", "sisa", "receraser", "neggrad", "badt", "e2urec", "e2urec-fast"]
NAMES += ["npo", "simnpo", "apa"]


def synthetic_results(names: list[str] = NAMES, seeds: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    grid = np.r_[0.0, np.geomspace(1e-3, 1, 99)]
    runs = [
        {
            "method": name, "seed": seed, "test_auc": 0.75 + 0.001 * position + 0.001 * seed,
            "test_acc": 0.7, "test_logloss": 0.55, "forget_auc": 0.8 - 0.001 * position,
            "jsd": (1.9 + 0.2 * position) / 1e3, "symmetrised_kl": 0.008, "l2": 0.06,
            "forget_loss": 0.58, "mia_auc": 0.5 + 0.01 * position, "seconds": 10.0 * (1 + position),
            "prepare_seconds": 30.0, "audit_seconds": 2.0, "trainable_parameters": 726_976,
            "peak_bytes": 512 * 2**20, "relearn_steps": 20 + position, "relearn_censored": False,
            "user_jsd_worst": 0.02,
            "roc": {"fpr": grid.tolist(), "tpr": (grid ** (1 - 0.04 * position)).tolist()},
            "per_user": {
                "rows": [5] * 40, "jsd": rng.lognormal(-6.3, 0.6, 40).tolist(),
                "loss_gap": rng.normal(0, 0.02, 40).tolist(),
            },
        }
        for position, name in enumerate(names)
        for seed in range(seeds)
    ]  # fmt: skip
    return {
        "data": "synthetic", "protocol": "paper", "backbone": "compact",
        "runs": runs, "summary": {},
        "noise_floor": {
            "jsd": 0.002, "jsd_interval": [0.0018, 0.00215], "forget_loss_interval": [0.57, 0.59],
        },
    }  # fmt: skip


def row(text: str, method: str) -> dict[str, str]:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return dict(zip(lines[0], next(line for line in lines if line[0] == method), strict=True))


def test_markdown_table_has_the_figures() -> None:
    found = row(markdown_table(synthetic_results()), "sisa")
    assert found["test AUC"] == "0.7530 ± 0.0010"
    assert found["JSD × 1000"] == "2.30"
    assert found["seconds"] == "30.0"
    assert found["÷ Retrain"] == "1.500"
    assert found["relearn steps ÷ Retrain"] == "1.05"
    assert found["trainable parameters"] == "726,976"
    assert found["peak MiB"] == "512"
    assert found["worst user, JSD × 1000"] == "20.0"
    assert found["as good as retraining"] == "no: JSD 2.30 > 2.15"
    assert "2.00, interval 1.80 to 2.15" in markdown_table(synthetic_results())
    assert "0.5700 to 0.5900" in markdown_table(synthetic_results())


def test_summary_takes_precedence_over_runs() -> None:
    results = synthetic_results()
    results["summary"] = {"sisa": {"jsd": {"mean": 0.001, "std": 0.0005}}}
    assert row(markdown_table(results), "sisa")["JSD × 1000"] == "1.00 ± 0.50"


@pytest.mark.parametrize(
    ("jsd", "loss", "good", "reason"),
    [
        (0.002, 0.58, True, ""),
        (0.001, 0.58, True, ""),
        (0.003, 0.58, False, "JSD"),
        # An averaged model is below the floor without forgetting.
        (0.001, 0.56, False, "not forgotten"),
        (0.002, 0.60, False, "forgotten too much"),
    ],
)
def test_verdict(jsd: float, loss: float, good: bool, reason: str) -> None:
    results = synthetic_results(["original", "retrain"], 1)
    results["runs"][0] |= {"jsd": jsd, "forget_loss": loss}
    found = verdict(results, "original")
    assert found.good is good
    assert reason in found.reason
    assert verdict(results, "retrain").good is None


def test_missing_measures_are_dashes(tmp_path: Path) -> None:
    results = {"runs": [{"method": "npo", "seed": 0, "test_auc": 0.7, "jsd": None, "l2": np.nan}]}
    found = row(markdown_table(results), "npo")
    assert found["test AUC"] == "0.7000"
    assert all(
        found[name] == "–" for name in ("JSD × 1000", "L2", "÷ Retrain", "as good as retraining")
    )
    Console(width=120, file=io.StringIO()).print(terminal_table(results))
    assert plots.write_plots(results, tmp_path) == []
    assert not list(tmp_path.glob("*.png"))


def test_censored_relearning_is_marked_as_a_lower_bound() -> None:
    results = copy.deepcopy(synthetic_results())
    next(run for run in results["runs"] if run["method"] == "npo")["relearn_censored"] = True
    assert row(markdown_table(results), "npo")["relearn steps ÷ Retrain"].startswith("≥ ")


def test_terminal_table_fits_120_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=120).print(terminal_table(synthetic_results()))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    assert "e2urec-fast" in text


def test_plots_are_written(tmp_path: Path) -> None:
    write_table(synthetic_results(), tmp_path)
    plots.write_plots(synthetic_results(), tmp_path)
    assert (tmp_path / "table.md").read_text().count("\n| ") == 2 + 11 - 1
    for name in plots.PLOTS:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (tmp_path / f"{name}.svg").read_text()
        assert len(svg) > 10_000


def test_labels_are_spread_in_order() -> None:
    found = plots._spread([0.5, 0.5, 0.51, 0.9], 0.05)
    assert np.diff(found).min() >= 0.05 - 1e-6
    assert found[3] == pytest.approx(0.9)


def test_missing_matplotlib_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_missing", ImportError("no matplotlib"))
    with pytest.raises(plots.MissingPlotsError, match="make setup"):
        plots.write_plots(synthetic_results(), tmp_path)
