"""The commands `renewal` and `renewal-costs`: bad options, results and repeatability."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from benchmarks.cli import application
from benchmarks.renewal.report import duration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "options",
    [
        ["renewal", "--rates", "many"],
        ["renewal", "--rates", "0,10"],
        ["renewal", "--rates", "10,10"],
        ["renewal", "--days", "0"],
        ["renewal", "--processes", "0"],
        ["renewal", "--costs", "missing.json"],
        ["renewal-costs", "--sizes", ""],
        ["renewal-costs", "--sizes", "8,1"],
        ["renewal-costs", "--data", "missing"],
        ["renewal-costs", "--trainings", "0"],
    ],
)
def test_bad_options_are_refused(options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"

    result = CliRunner().invoke(application, [*options, "--out", str(out)])

    assert result.exit_code == 2
    assert not out.exists()


def test_results_are_complete_and_repeatable(tmp_path: Path) -> None:
    options = ["renewal", "--rates", "10", "--days", "40", "--json"]

    first = CliRunner().invoke(application, [*options, "--out", str(tmp_path / "1")])
    second = CliRunner().invoke(
        application, [*options, "--processes", "2", "--out", str(tmp_path / "2")]
    )

    assert first.exit_code == 0, first.output
    assert second.exit_code == 0, second.output
    names = {path.name for path in (tmp_path / "1").iterdir()}
    assert names == {"results.json", "table.md", "exact.png"}
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    results = json.loads((tmp_path / "1" / "results.json").read_text())
    rows = {
        (row["model"], row["mode"], row["name"]): row["figures"] for row in results["scenarios"]
    }
    assert {mode for _, mode, _ in rows} == {"default", "soon", "deadline"}
    assert rows["compact", "default", "plain"] == rows["compact", "soon", "plain"]
    assert rows["10 h", "default", "plain"] == rows["10 h", "deadline", "plain"]
    assert "| 10 | compact | soon | plain |" in (tmp_path / "1" / "table.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0.0 s"), (90.0, "1.5 min"), (5_400.0, "1.5 h"), (-129_600.0, "-1.5 d")],
)
def test_durations_have_the_largest_fitting_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
