"""Two processes with the same data and seed make the same releases and the same verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.slow


def run(hash_seed: str) -> dict[str, Any]:
    """Return the figures of a run in which sets have the order that this seed gives."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.figures_of_a_run"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        timeout=550,
        check=True,
    )
    figures: dict[str, Any] = json.loads(ended.stdout)
    return figures


def test_same_data_and_seed_give_the_same_weights_and_the_same_verdict() -> None:
    first, second = run("1"), run("2")
    assert first["trained"]["weights"] != first["merged"]["weights"]
    assert first["verdict"]["figures"]["forget"]["rows"] > 0
    assert first == second
