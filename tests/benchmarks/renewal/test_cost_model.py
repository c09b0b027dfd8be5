"""Costs from measured jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.renewal.command import MEASURED
from benchmarks.renewal.cost_model import Costs, CostsError

if TYPE_CHECKING:
    from pathlib import Path


def job(kind: str, size: int, attempts: int = 1, **stages: float) -> dict[str, Any]:
    """Return a job whose processor seconds are half of its seconds."""
    return {
        "kind": kind,
        "size": size,
        "attempts": [{}] * attempts,
        "stage_seconds": stages,
        "stage_cpu_seconds": {stage: seconds / 2.0 for stage, seconds in stages.items()},
    }


JOBS = [
    job("train", 0, claim=2.0, train=60.0, publish=1.0, roll_out=2.0, shred=3.0),
    job("renew", 0, claim=2.0, train=80.0, audit=8.0, publish=1.0, roll_out=4.0, shred=5.0),
    job("forget", 1, unlearn=8.0, shred=2.0, certify=1.0),
    job("forget", 1, unlearn=12.0, shred=2.0, certify=1.0),
    job("forget", 11, unlearn=20.0, shred=2.0, certify=6.0),
    job("forget", 1, attempts=0, delete_rows=2.0, certify=1.0),
    job("forget", 11, attempts=0, delete_rows=62.0, certify=6.0),
    job("forget", 11, attempts=2, unlearn=900.0, certify=900.0),
]


def test_costs_are_means_of_computation_and_of_waits() -> None:
    costs = Costs.of_jobs(JOBS)

    assert costs.sizes == (1.0, 11.0)
    assert costs.batches == (8.0, 18.0)
    assert costs.trainings == (31.0, 45.0)
    assert (costs.roll_out, costs.shred) == (4.0, 2.0)
    # Ten more requests take five more seconds to certify, or 65 with their rows: half of it counts.
    assert costs.certificate == 0.25
    assert costs.request == 3.25


@pytest.mark.parametrize(("size", "seconds"), [(1, 8.0), (6, 13.0), (11, 18.0), (21, 50.5)])
def test_batches_are_piecewise_linear(size: int, seconds: float) -> None:
    costs = Costs.of_jobs(JOBS)

    assert costs.batch_seconds(size) == pytest.approx(seconds)
    assert costs.deletions_per_day(size) == pytest.approx(size / seconds * 86_400)


def test_training_is_scaled_and_the_others_stay() -> None:
    costs = Costs.of_jobs(JOBS)
    long = costs.with_training(3_800.0)

    assert long.trainings == (3_100.0, 4_500.0)
    assert (long.batches, long.roll_out) == (costs.batches, costs.roll_out)
    assert costs.with_batch(200.0).batch_seconds(32) == 200.0


@pytest.mark.parametrize("jobs", [[], JOBS[:2], JOBS[2:], JOBS[:2] + JOBS[-1:], JOBS[:5], JOBS[:6]])
def test_missing_measurements_are_refused(jobs: list[dict[str, Any]]) -> None:
    with pytest.raises(CostsError):
        Costs.of_jobs(jobs)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"jobs": [{}]}'])
def test_unusable_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)

    with pytest.raises(CostsError, match=r"costs\.json"):
        Costs.read(path)


def test_shipped_costs_name_their_machine_and_command() -> None:
    document = json.loads(MEASURED.read_text(encoding="utf-8"))

    assert document["machine"]
    assert document["command"].startswith("python -m benchmarks renewal-costs")
    costs = Costs.read(MEASURED)
    assert costs.batch_seconds(1) < min(costs.trainings)
    assert costs.batch_seconds(32) < min(costs.trainings)
