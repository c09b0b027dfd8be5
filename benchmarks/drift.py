"""Measure how releases drift from their exact training while batches of users are forgotten.

    python -m benchmarks.drift [--data data/ml-latest-small] [--batches 20] [--users 4] [--seed 0]

Runs deletions through an installation with LETHE_EXACT=off, whose budget of forgotten rows is never
spent, and prints a row for each release: the forgotten rows, and for the test rows (audit) and the
rows of holdout users the measured increase of the loss, the increase that chance explains, and the
increase that counts. `control` is the increase that the weights of the exact training show on the
rows that are left: chance alone. An exact training at the end shows what a renewal gives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from app.domain.jobs import JobKind
from app.domain.renewal import ExactMode
from app.services.forget import ForgetCommand, request_forget
from app.services.jobs import start_training
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate
from models.audit.drift import RowLosses
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.training.trainer import row_losses
from worker.context import build_context
from worker.drift import measure_drift
from worker.importer import run_import
from worker.loop import run_once
from worker.stages.snapshot import take_snapshot
from worker.training_data import split_like

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.releases import Release
    from worker.context import WorkerContext

GROUPS: Final = ("audit", "holdout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A release after a batch. `drift` and `control` are as in the column `releases.drift`."""

    batch: int
    outcome: str | None
    forgotten_rows: int
    forgotten_share: float | None
    drift: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] = field(default_factory=dict)
    test_log_loss: float | None = None


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("data/ml-latest-small"))
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--users", type=int, default=4, help="number of users of a batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of users")
    parser.add_argument("--json", type=Path, help="file for the figures of all releases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        steps = []
        for step in measure(Path(directory), arguments):
            steps.append(asdict(step))
            sys.stdout.write(_line(step))
            sys.stdout.flush()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(steps, indent=1) + "\n")


def measure(home: Path, arguments: argparse.Namespace) -> Iterator[Step]:
    """Train, forget the batches and retrain; yield the live release after each job."""
    settings = Settings(
        home=home / "home",
        exact=ExactMode.OFF,
        drift_rows=1.0,
        batch_seconds=0,
        cancel_window=0,
        batch_size=arguments.users,
    )
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    database.dispose()
    context = build_context(settings)
    try:
        factory, pseudonyms = context.uow_factory, load_pseudonyms(settings)
        run_import(arguments.data, "auto", factory, pseudonyms, lambda _event: None)
        _train(context, JobKind.TRAIN)
        root = home / "root"
        shutil.copytree(context.artifacts.local_path(_live(context).path), root)
        yield _step(context, 0, root)
        for number, users in enumerate(_draw(context, arguments), start=1):
            with factory() as uow:
                for user in users:
                    request_forget(uow, pseudonyms, settings, ForgetCommand.of(user, (), None))
            _run(context)
            yield _step(context, number, root)
        _train(context, JobKind.RENEW)
        yield _step(context, arguments.batches + 1, root)
    finally:
        context.close()


def _draw(context: WorkerContext, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the users of each batch: users who are in no other batch, and who train the model."""
    snapshot = take_snapshot(context.uow_factory, context.pseudonyms, job_id="benchmark")
    directory = context.artifacts.local_path(_live(context).path)
    train = split_like(snapshot, manifests.read_manifest(directory)).parts.train
    drawn = np.random.default_rng(arguments.seed).permutation(np.unique(train.user))
    ids = [snapshot.data.users[index].id for index in drawn.tolist()]
    for batch in range(arguments.batches):
        yield ids[batch * arguments.users : (batch + 1) * arguments.users]


def _train(context: WorkerContext, kind: JobKind) -> None:
    with context.uow_factory() as uow:
        start_training(uow, kind)
    _run(context)


def _run(context: WorkerContext) -> None:
    if not run_once(context):
        raise RuntimeError("no job was waiting")


def _live(context: WorkerContext) -> Release:
    with context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    if release is None:
        raise RuntimeError("the first training failed; see the log")
    return release


def _step(context: WorkerContext, batch: int, root: Path) -> Step:
    release = _live(context)
    return Step(
        batch=batch,
        outcome=None if release.outcome is None else release.outcome.value,
        forgotten_rows=release.forgotten_rows,
        forgotten_share=release.forgotten_share,
        drift=release.metrics["audit"].get("drift") or {},
        control=_drift_on_rest(context, root, root),
        test_log_loss=_test_loss(context, release, root),
    )


def _drift_on_rest(context: WorkerContext, weights: Path, root: Path) -> dict[str, Any]:
    """Return the drift of some weights from the exact training in `root`, on the rows left now."""
    snapshot = take_snapshot(context.uow_factory, context.pseudonyms, job_id="benchmark")
    manifest, recommender = manifests.read_manifest(root), checkpoints.load(weights)
    split = split_like(snapshot, manifest)
    losses = {
        name: RowLosses(
            users=samples.user,
            losses=row_losses(recommender, samples, split.retained).astype(np.float64),
        )
        for name, samples in zip(GROUPS, (split.parts.test, split.parts.holdout), strict=True)
    }
    return measure_drift(snapshot, manifest, losses, context.settings.drift_loss)


def _test_loss(context: WorkerContext, release: Release, root: Path) -> float | None:
    """Return the release's mean loss on the test rows of the first training that are left."""
    directory = context.artifacts.local_path(release.path)
    loss: float | None = _drift_on_rest(context, directory, root)["audit"].get("loss")
    return loss


def _line(step: Step) -> str:
    share = float("nan") if step.forgotten_share is None else step.forgotten_share
    columns = [f"{step.batch:3} {step.outcome or 'first':>12} {step.forgotten_rows:6} {share:6.1%}"]
    for name in GROUPS:
        group, control = step.drift.get(name, {}), step.control.get(name, {})
        columns.append(
            f"{name} {control.get('rows', 0):5} rows"
            + "".join(
                f" {title} {values[key]:+7.2%}" if key in values else f" {title}       -"
                for title, values, key in (
                    ("control", control, "measured"),
                    ("measured", group, "measured"),
                    ("noise", group, "noise"),
                    ("counts", group, "increase"),
                )
            )
        )
    loss = "-" if step.test_log_loss is None else f"{step.test_log_loss:.4f}"
    return " | ".join([*columns, f"test loss {loss}"]) + "\n"


if __name__ == "__main__":
    main()
