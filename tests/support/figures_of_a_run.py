"""Train, forget a batch and audit with the pipeline's learner, and print what was made as JSON.

For each release the digest of its weights and the figures of its manifest, and the audit's verdict.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from models.backbones.compact import CompactConfig
from models.checkpoints.manifest import read_manifest
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted
from worker.learner import DataSnapshot, ForgetSet
from worker.trainer import ModelLearner

if TYPE_CHECKING:
    from worker.learner import Artifact

BACKBONE = CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.1)
USERS = 60
HOLDOUT = frozenset(f"u{number}" for number in range(50, 60))
BATCH = ForgetSet(
    users=frozenset(f"u{number}" for number in range(5)),
    pairs=frozenset((f"u{number}", f"i{number}") for number in range(10, 20)),
    items=frozenset(["i3", "i7"]),
)


def nothing(fraction: float) -> None:
    """Ignore the progress."""


def snapshot(forget: ForgetSet) -> DataSnapshot:
    data = planted()
    return DataSnapshot(
        version=1,
        data=data.take(data.user < USERS),
        forget=forget,
        holdout=HOLDOUT,
        job_id="job",
        requests={"request": forget},
    )


def release(artifact: Artifact) -> dict[str, Any]:
    content = read_manifest(artifact.directory).content
    return {"weights": content["weights_sha256"], "manifest": content["extra"]}


def main(root: Path) -> None:
    learner = ModelLearner(
        Settings(method="e2urec-fast", seed=0),
        lambda _backbone: replace(RECIPE, backbone=BACKBONE, epochs=2),
        CALIBRATION,
    )
    trained = learner.train(snapshot(ForgetSet()), root / "trained", "compact", nothing)
    batch = snapshot(BATCH)
    delta = learner.unlearn(batch, trained.directory, root / "delta", strength=0, report=nothing)
    merged = learner.merge(trained.directory, delta.directory, root / "merged")
    verdict = learner.audit(batch, trained.directory, merged.directory, exact=False, report=nothing)
    json.dump(
        {"trained": release(trained), "merged": release(merged), "verdict": asdict(verdict)},
        sys.stdout,
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory))
