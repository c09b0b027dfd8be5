"""Compare unlearning with exact retraining of the same model, through the worker's learner.

    python -m benchmarks.forget_job [--data data/ml-latest-small] [--users 1,4,40]

Prints the seconds to unlearn (teacher, student and merge), to audit and to retrain exactly, their
ratio, and the test AUC, forget AUC and forget loss of each release.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from app.services.pseudonyms import Pseudonyms
from app.settings import Settings, read_settings
from models.backbones.packaged import set_cache_directory
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.data.metrics import utility
from models.datasets.detect import read
from models.training.trainer import margins
from worker.learner import DataSnapshot, ForgetSet
from worker.trainer import ModelLearner
from worker.training_data import split_like

if TYPE_CHECKING:
    from models.recommender.base import Recommender


def _ignore_progress(fraction: float) -> None:
    del fraction


def _snapshot(path: Path, settings: Settings) -> DataSnapshot:
    data, _ = read(path)
    pseudonyms = Pseudonyms(b"benchmark")
    holdout = frozenset(
        user.id for user in data.users if pseudonyms.never_trained(user.id, settings.holdout_share)
    )
    return DataSnapshot(
        version=1, data=data, forget=ForgetSet(), holdout=holdout, job_id="benchmark"
    )


def _draw_users(snapshot: DataSnapshot, parent: Path, count: int) -> frozenset[str]:
    """Draw `count` users with training rows, by a fixed seed."""
    train = split_like(snapshot, manifests.read_manifest(parent)).parts.train
    drawn = np.random.default_rng(0).choice(np.unique(train.user), count, replace=False)
    return frozenset(snapshot.data.users[index].id for index in drawn.tolist())


def _forget_figures(model: Recommender, snapshot: DataSnapshot, parent: Path) -> dict[str, float]:
    prepared = split_like(snapshot, manifests.read_manifest(parent))

    def measure_utility(samples: Any) -> dict[str, float]:
        prompts = model.prompt.samples(samples, prepared.retained)
        return utility(samples.label, margins(model, prompts).numpy())

    forget, test = measure_utility(prepared.forget), measure_utility(prepared.parts.test)
    return {"forget_auc": forget["auc"], "forget_loss": forget["log_loss"], "test_auc": test["auc"]}


def measure(snapshot: DataSnapshot, learner: ModelLearner, parent: Path, work: Path) -> None:
    """Unlearn and retrain one batch, and print a row for each release."""
    started = time.perf_counter()
    adapter = learner.unlearn(
        snapshot, parent, work / "adapter", strength=0, report=_ignore_progress
    )
    learner.merge(parent, adapter.directory, work / "merged")
    unlearned_at = time.perf_counter()
    verdict = learner.audit(snapshot, parent, work / "merged", exact=False, report=_ignore_progress)
    audited_at = time.perf_counter()
    retrained = learner.train(snapshot, work / "exact", parent, _ignore_progress)
    fit_seconds = float(retrained.metrics["fit_seconds"])
    rows = (
        ("before", parent, 0.0),
        ("unlearned", work / "merged", unlearned_at - started),
        ("retrained", work / "exact", fit_seconds),
    )
    print(
        f"\n{len(snapshot.forget.users)} user(s), {adapter.metrics['forget_rows']} rows: "
        f"{verdict.outcome}, {verdict.figures['reason']}; audit {audited_at - unlearned_at:.1f} s; "
        f"retraining takes {fit_seconds / (unlearned_at - started):.1f} times as long as unlearning"
    )
    print(f"{'release':>10} {'seconds':>8} {'test AUC':>9} {'forget AUC':>11} {'forget loss':>12}")
    for name, directory, seconds in rows:
        figures = _forget_figures(checkpoints.load(directory), snapshot, parent)
        print(
            f"{name:>10} {seconds:8.1f} {figures['test_auc']:9.4f} {figures['forget_auc']:11.4f} "
            f"{figures['forget_loss']:12.4f}"
        )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("data/ml-latest-small"))
    parser.add_argument("--users", default="1,4,40")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = read_settings()
    set_cache_directory(settings.backbones_directory)
    snapshot = _snapshot(arguments.data, settings)
    learner = ModelLearner(settings)
    with tempfile.TemporaryDirectory() as directory:
        parent = Path(directory) / "parent"
        learner.train(snapshot, parent, settings.backbone, _ignore_progress)
        for count in map(int, arguments.users.split(",")):
            users = _draw_users(snapshot, parent, count)
            batch = replace(snapshot, forget=ForgetSet(users=users))
            measure(batch, learner, parent, Path(directory) / f"batch-{count}")


if __name__ == "__main__":
    main()
