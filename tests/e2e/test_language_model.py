"""A pretrained language model end to end: tune, serve, forget, swap, and serve again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.language_model import write_slice
from tests.support.processes import ROOT, processes_of


@pytest.mark.slow
@pytest.mark.timeout(900)  # Four minutes where bfloat16 is fast, eleven where it is not.
def test_smollm2_is_tuned_and_forgets_a_user_while_serving(
    environment: dict[str, str], tmp_path: Path
) -> None:
    write_slice(ROOT / "data" / "ml-latest-small", tmp_path / "slice", users=18, ratings=30)
    small = {"LETHE_TRAIN_ROWS": "64", "LETHE_EVALUATION_ROWS": "24", "LETHE_CANDIDATES": "8"}

    ended = subprocess.run(
        [
            *(sys.executable, "-m", "app.cli", "demo", "--exit", "--port", "0", "--json"),
            *("--data", str(tmp_path / "slice")),
        ],
        cwd=ROOT,
        env={**environment, **small, "LETHE_BACKBONE": "smollm2"},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr + ended.stdout
    document = json.loads(ended.stdout)
    training = document["train"]["metrics"]["tries"][-1]["training"]
    assert training["parameters"] > 130_000_000
    assert training["trained_parameters"] < 0.02 * training["parameters"]
    assert 32 < training["rows"]["train"] < 96
    assert {"model", "untuned", "item_mean"} <= training["validation"].keys()
    job = document["job"]
    assert document["request"]["status"] == "completed"
    assert job["metrics"]["tries"][0]["training"]["forget_rows"] > 0
    assert "merge" not in job["metrics"]["stage_seconds"]
    assert document["others"]["before"]["release"] == document["train"]["release"] != job["release"]
    assert document["others"]["after"]["release"] == job["release"]
    scores = [item["score"] for item in document["others"]["after"]["items"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < min(scores) < max(scores) < 1
    assert document["load"]["failed"] == 0
    (weights,) = Path(environment["LETHE_HOME"], "artifacts").rglob("weights.safetensors")
    # Only the weights of one adapter of a few megabytes remain on disk.
    assert weights.stat().st_size < 0.05 * training["parameters"] * 4
    assert processes_of(environment["LETHE_HOME"]) == []
