"""Measure drift on the rows that the exact training measured, with untrained weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.audit.drift import MINIMUM_USERS, RowLosses
from models.backbones.compact import CompactConfig
from models.checkpoints import manifest as manifests
from models.data.splits import RowLimits
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.training.trainer import TrainConfig, row_losses
from tests.support.planted_tastes import planted
from worker.drift import EVALUATION, measure_drift
from worker.learner import DataSnapshot, ForgetSet
from worker.release_files import save_root
from worker.training_data import split_like, split_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from models.checkpoints.manifest import Manifest
    from models.recommender.base import Recommender
    from worker.learner import Artifact

BACKBONE = CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.5)
HOLDOUT = frozenset(f"u{number}" for number in range(130, 150))
VERSION = 5
LARGEST = 0.5
NOTHING = ForgetSet()


def snapshot(forget: ForgetSet = NOTHING, version: int = VERSION) -> DataSnapshot:
    data = planted()
    written = np.full(len(data), VERSION, np.int64)
    return DataSnapshot(
        version=version,
        data=data,
        forget=forget,
        holdout=HOLDOUT,
        first_version=written,
        last_version=written.copy(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A release as an exact training saves it."""

    artifact: Artifact
    manifest: Manifest
    recommender: Recommender

    def losses(self, later: DataSnapshot) -> dict[str, RowLosses]:
        """Return what the audit of a successor with the same weights measures."""
        split = split_like(later, self.manifest)
        parts = {"audit": split.parts.test, "holdout": split.parts.holdout}
        return {
            name: RowLosses(
                users=samples.user,
                losses=row_losses(self.recommender, samples, split.retained).astype(np.float64),
            )
            for name, samples in parts.items()
        }

    def drift(self, later: DataSnapshot, largest_increase: float = LARGEST) -> dict[str, Any]:
        return measure_drift(later, self.manifest, self.losses(later), largest_increase)


@pytest.fixture(params=[None, 300], ids=["all rows", "a sample of rows"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    data, limits = snapshot(), RowLimits(evaluation=request.param)
    split = split_snapshot(data, None, limits)
    recommender = build(Vocabulary.from_catalog(split.catalog()), BACKBONE)
    artifact = save_root(
        recommender,
        tmp_path / "root",
        method="retrain",
        snapshot=data,
        split=split,
        recipe=TrainConfig(backbone=BACKBONE, limits=limits),
        calibration=None,
    )
    manifest = manifests.read_manifest(artifact.directory)
    return Root(artifact=artifact, manifest=manifest, recommender=recommender)


def test_manifest_and_artifact_have_aggregate_figures_only(root: Root) -> None:
    figures = root.manifest.extra[EVALUATION]
    assert figures == root.artifact.evaluation
    assert set(figures) == {"audit", "holdout"}
    for group in figures.values():
        assert set(group) == {"rows", "users", "loss", "row_deviation", "user_deviation"}
        assert all(isinstance(value, int | float) for value in group.values())
        assert group["users"] >= MINIMUM_USERS
    split = split_like(snapshot(), root.manifest)
    assert root.artifact.training_rows == len(split.parts.train) > 0


def test_same_weights_have_no_drift_on_the_same_rows(root: Root) -> None:
    drift = root.drift(snapshot())
    for name in ("audit", "holdout"):
        assert drift[name]["rows"] == root.manifest.extra[EVALUATION][name]["rows"]
        assert drift[name]["noise"] == 0.0
        assert drift[name]["measured"] == pytest.approx(0.0, abs=1e-12)
        assert drift[name]["loss"] == pytest.approx(drift[name]["root_loss"])
    assert drift["increase"] == pytest.approx(0.0, abs=1e-12)


def test_rows_of_forgotten_persons_and_new_rows_are_no_drift(root: Root) -> None:
    """The rows that are left are those that were measured, whatever was added meanwhile."""
    users = frozenset(f"u{number}" for number in (1, 2, 3, 140))
    later = snapshot(ForgetSet(users=users))
    newer = np.append(np.full(len(later.data), VERSION), np.full(50, VERSION + 1))
    data = later.data
    later = replace(
        later,
        version=VERSION + 1,
        data=replace(
            data,
            user=np.append(data.user, np.full(50, 10, np.int32)),
            item=np.append(data.item, np.arange(50, dtype=np.int32)),
            rating=np.append(data.rating, np.full(50, 5.0, np.float32)),
            timestamp=np.append(data.timestamp, np.full(50, data.timestamp.max())),
        ),
        first_version=newer,
        last_version=newer,
    )
    before, after = root.losses(snapshot()), root.losses(later)
    indices = [index for index, user in enumerate(data.users) if user.id in users]
    for name in ("audit", "holdout"):
        rest = before[name].take(~np.isin(before[name].users, indices))
        assert np.array_equal(rest.users, after[name].users)
        np.testing.assert_allclose(rest.losses, after[name].losses, rtol=1e-5)
    drift = root.drift(later)
    assert drift["increase"] == 0.0
    assert all(drift[name]["noise"] > 0 for name in ("audit", "holdout"))


def test_users_with_changed_ratings_are_left_out(root: Root) -> None:
    later = snapshot(version=VERSION + 1)
    changed = 7
    row = int(np.flatnonzero(later.data.user == changed)[0])
    last = later.last_versions.copy()
    last[row] = VERSION + 1
    later = replace(later, last_version=last)
    assert changed in root.losses(later)["audit"].users
    audit = root.losses(later)["audit"]
    drift = root.drift(later)
    assert drift["audit"]["rows"] == len(audit.take(audit.users != changed).losses)
    assert drift["increase"] == 0.0


def test_too_few_rows_give_a_reason_instead_of_a_drift(root: Root) -> None:
    users = frozenset(f"u{number}" for number in range(150)) - {"u20", "u21", "u131"}
    drift = root.drift(snapshot(ForgetSet(users=users)))
    assert drift["increase"] is None
    assert all("few" in drift[name]["reason"] for name in ("audit", "holdout"))
    # The larger group is compared where the other one cannot be.
    drift = root.drift(snapshot(ForgetSet(users=HOLDOUT - {"u131"})))
    assert "few" in drift["holdout"]["reason"]
    assert drift["increase"] == drift["audit"]["increase"]


def test_release_of_an_earlier_version_has_no_figures_to_compare_with(root: Root) -> None:
    extra = {name: value for name, value in root.manifest.extra.items() if name != EVALUATION}
    earlier = replace(root.manifest, extra=extra)
    drift = measure_drift(snapshot(), earlier, root.losses(snapshot()), LARGEST)
    assert drift["increase"] is None
    assert "stored no figures" in drift["audit"]["reason"]
