"""Tables and plots of the results, with dashes for missing figures."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.unlearning import plots
from benchmarks.unlearning.report import markdown_table, terminal_table, write_table

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
    assert found["as good as retraining"] == "undecided: not measured"
    assert "2.00, interval 1.80 to 2.15" in markdown_table(synthetic_results())
    assert "0.5700 to 0.5900" in markdown_table(synthetic_results())


def test_summary_takes_precedence_over_runs() -> None:
    results = synthetic_results()
    results["summary"] = {"sisa": {"jsd": {"mean": 0.001, "std": 0.0005}}}
    assert row(markdown_table(results), "sisa")["JSD × 1000"] == "1.00 ± 0.50"


def with_measures() -> dict[str, Any]:
    """Return results with measures over seeds; sisa has no intervals and npo no exposure."""
    results = synthetic_results()
    interval = {"mean": 0.001, "low": -0.002, "high": 0.004}
    for run in results["runs"]:
        run |= {"test_calibration_error": 0.02, "ndcg_at_10": 0.6, "recall_at_10": 0.5}
        if run["method"] != "npo":
            run |= {"exposure_person": 0.3, "exposure_others": 0.2}
    results["measures"] = {
        name: {
            "seeds": 3,
            "systematic": {
                "distance": 0.04 / (1 + position), "low": 0.03 / (1 + position) - 0.002,
                "high": 0.05 / (1 + position), "people": 40, "effective_people": 30.2, "rows": 1234,
            },
            "per_person": {
                "rows": [5] * 40, "distance": np.linspace(-0.01, 0.1, 40).tolist(), "mean": 0.045,
                "quantiles": {"0.05": -0.005, "0.25": 0, "0.5": 0.04, "0.75": 0.1, "0.95": 0.1},
                "people": 40, "effective_people": 30.2,
            },
            "variance_ratio": 1.25,
            "line": {
                "slope": 0.98, "offset": 0.01, "slope_interval": [0.9, 1.1],
                "offset_interval": [-0.1, 0.1],
            },
            "attack": {
                "auc": 0.55, "low": 0.5, "high": 0.6, "excess": 0.05, "tpr_at_1": 0.02,
                "control_auc": 0.51, "control_tpr_at_1": 0.012, "references": 22.0,
            },
            "forget_loss_interval": [0.57, 0.59],
            "test_logloss_difference": interval, "test_calibration_error_difference": interval,
            "ndcg_at_10_difference": interval, "recall_at_10_difference": None,
            "exposure_person_difference": interval, "exposure_others_difference": interval,
        }
        for position, name in enumerate(NAMES)
    }  # fmt: skip
    results["measures"]["sisa"]["systematic"] |= {"low": None, "high": None}
    results["measures"]["retrain"] |= {"per_person": None, "line": None}
    results["control"] = {
        "coverage": 0.98, "splits": 56, "size": 3, "runs": 24,
        "covers_zero": True, "original_rejected": True,
        "has_power": True, "systematic": results["measures"]["retrain"]["systematic"],
    }  # fmt: skip
    results["noise_floor"]["intervals"] = "95 % prediction"
    return results


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ", maxsplit=1)[0]


def test_measures_over_seeds_have_tables() -> None:
    text = markdown_table(with_measures())
    distances = section(text, "Distance to retraining without seed noise")
    own = row(distances, "neggrad")
    assert own["systematic distance × 1000 (95 %)"] == "8.0 (4.0 to 10.0)"
    assert own["of Original's"] == "20% (at most 25%)"
    assert own["5 / 50 / 95 %"] == "-5 / 40 / 100"
    assert own["slope over Retrain"] == "0.980 (0.900 to 1.100)"
    assert row(distances, "sisa")["systematic distance × 1000 (95 %)"] == "13.3 (no interval)"
    assert row(distances, "retrain")["offset"] == "–"
    assert "1,234 rows of 40 people, who count as 30 (effective number)." in distances
    assert "3 of 24 retrained models against the others, 56 splits): 98% of" in distances
    assert "The distance has power" in distances
    attacks = row(section(text, "Membership and exposure"), "npo")
    assert attacks["attack AUC (95 % over seeds)"] == "0.550 (0.500 to 0.600)"
    assert attacks["control AUC"] == "0.510"
    assert attacks["exposure, person"] == "–"
    quality = row(section(text, "Quality"), "apa")
    assert quality["log loss difference"] == "+0.0010 (-0.0020 to +0.0040)"
    assert "As good as retraining: upper end of the systematic distance at most 10%" in text


@pytest.mark.parametrize(
    ("covers", "rejected", "reason"),
    [
        (True, False, "no power on these data:** Original's interval contains 0."),
        (False, True, "no power on these data:** Retrain is rejected too often."),
    ],
)
def test_table_says_that_the_distance_has_no_power(
    covers: bool, rejected: bool, reason: str
) -> None:
    results = with_measures()
    results["control"] |= {"covers_zero": covers, "original_rejected": rejected, "has_power": False}
    assert reason in markdown_table(results)
    results["control"] |= {"has_power": None}
    assert "The power was not measured" in markdown_table(results)


def test_missing_measures_are_dashes(tmp_path: Path) -> None:
    results = {"runs": [{"method": "npo", "seed": 0, "test_auc": 0.7, "jsd": None, "l2": np.nan}]}
    found = row(markdown_table(results), "npo")
    assert found["test AUC"] == "0.7000"
    assert all(found[name] == "–" for name in ("JSD × 1000", "L2", "÷ Retrain"))
    assert found["as good as retraining"] == "undecided: not measured"
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
    write_table(with_measures(), tmp_path)
    plots.write_plots(with_measures(), tmp_path)
    assert (tmp_path / "table.md").read_text().count("\n| ") == 4 * (2 + 11) - 1
    for name in plots.PLOTS:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (tmp_path / f"{name}.svg").read_text()
        assert len(svg) > 10_000


def test_results_of_an_earlier_version_have_the_earlier_plots(tmp_path: Path) -> None:
    plots.write_plots(synthetic_results(), tmp_path)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"pareto", "times", "membership", "users"}


def test_noise_floor_that_begins_at_zero_is_drawn(tmp_path: Path) -> None:
    results = with_measures()
    results["noise_floor"]["jsd_interval"] = [0.0, 0.002]
    plots.write_plots(results, tmp_path)
    assert (tmp_path / "pareto.png").exists()


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
