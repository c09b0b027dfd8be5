"""The restore drill on a small data set, with real processes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT, processes_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_restored_database_and_artifacts_never_serve_the_forgotten_person(
    tiny: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    transcript = tmp_path / "transcript.txt"
    try:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.restore_drill", "--mixes", "both"),
                *("--data", str(tiny), "--people", "3,4,5,6,7", "--holdout-share", "0.2"),
                *("--out", str(transcript)),
            ],
            cwd=ROOT,
            env={**environment, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        for home in tmp_path.glob("lethe-drill-*/home"):
            for process in processes_of(home):
                process.kill()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = transcript.read_text()
    assert "lethe restore-check: status 3" in lines
    assert "503 (restoring" in lines
    assert lines.strip().endswith("lethe restore-check: status 0, ok")
