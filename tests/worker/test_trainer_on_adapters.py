"""Train and unlearn on a pretrained backbone: each release is an adapter, without merging."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from app.settings import Settings
from models.backbones.lora import AdapterConfig
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.data.splits import RowLimits
from models.recommender.factory import backbone_from_manifest
from models.training.recipes import recipe_for
from models.training.trainer import TrainConfig, margins
from models.unlearning.sisa import Sisa
from tests.support import tiny_models as tiny
from tests.support.planted_tastes import CALIBRATION
from tests.worker.test_trainer import FIRST, ONE, nothing, take_snapshot
from worker.errors import UnlearningFailedError
from worker.learner import Artifact, ForgetSet
from worker.trainer import ModelLearner

if TYPE_CHECKING:
    from pathlib import Path

    from models.backbones.compact import BackboneConfig

pytestmark = pytest.mark.slow

SHAPE = AdapterConfig(rank=2, alpha=4, dropout=0.0, targets=("query", "value"))


def small_recipe(backbone: BackboneConfig) -> TrainConfig:
    """Return the backbone's recipe with a small adapter and a few hundred rows."""
    recipe = recipe_for(backbone)
    adapted = replace(recipe.backbone, adapter=SHAPE)  # type: ignore[type-var] # an hf: config
    limits = RowLimits(train=400, evaluation=60)
    return replace(recipe, backbone=adapted, learning_rate=5e-3, limits=limits, validations=1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("public") / "llama"
    tiny.save("llama", directory)
    return f"hf:{directory}"


@pytest.fixture(scope="module")
def learner() -> ModelLearner:
    return ModelLearner(Settings(method="e2urec-fast", seed=0), small_recipe, CALIBRATION)


@pytest.fixture(scope="module")
def root(
    learner: ModelLearner, backbone: str, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    into = tmp_path_factory.mktemp("root") / "release"
    return learner.train(take_snapshot(ForgetSet()), into, backbone, nothing)


def test_release_trains_adapter_on_limited_rows(root: Artifact) -> None:
    manifest = manifests.read_manifest(root.directory)
    config = backbone_from_manifest(manifest.content["backbone"])
    assert config.adapter == SHAPE
    assert {"model", "untuned", "item_mean"} <= root.metrics["validation"].keys()
    assert root.metrics["trained_parameters"] < 0.1 * root.metrics["parameters"]
    assert 300 < root.metrics["rows"]["train"] < 500
    assert all(20 < root.metrics["rows"][part] < 100 for part in ("valid", "test", "holdout"))
    assert root.metrics["halvings"] == 0
    assert all("lora_" in name for name in checkpoints.read_weights(root.directory))


def test_unlearning_twice_replaces_adapter_each_time(
    learner: ModelLearner, root: Artifact, tmp_path: Path
) -> None:
    first = learner.unlearn(
        take_snapshot(FIRST, job_id="first"),
        root.directory,
        tmp_path / "1",
        strength=0,
        report=nothing,
    )
    assert not first.needs_merge
    assert first.metrics["trainable_parameters"] == root.metrics["trained_parameters"]
    before = manifests.read_manifest(root.directory)
    after = manifests.read_manifest(first.directory)
    assert (after.parent, after.method) == (before.digest, "e2urec-fast")
    assert after.content["backbone"] == before.content["backbone"]
    assert all(after.extra[name] == before.extra[name] for name in ("bounds", "expected", "recipe"))
    later = take_snapshot(
        ForgetSet(users=frozenset({"u40", "u41"})), deleted=FIRST, job_id="second"
    )
    second = learner.unlearn(later, first.directory, tmp_path / "2", strength=0, report=nothing)
    assert manifests.read_manifest(second.directory).parent == first.digest
    verdict = learner.audit(later, first.directory, second.directory, exact=False, report=nothing)
    assert verdict.outcome in {Outcome.PASSED, Outcome.INCONCLUSIVE, Outcome.FAILED}
    old, new = checkpoints.load(first.directory), checkpoints.load(second.directory)
    golden = old.prompt.golden()
    assert not torch.equal(margins(old, golden), margins(new, golden))


def test_retraining_keeps_backbone_and_recipe_of_parent(
    learner: ModelLearner, root: Artifact, tmp_path: Path
) -> None:
    exact = learner.train(take_snapshot(ONE), tmp_path / "exact", root.directory, nothing)
    before = manifests.read_manifest(root.directory)
    after = manifests.read_manifest(exact.directory)
    assert after.content["backbone"] == before.content["backbone"]
    assert after.extra["recipe"] == before.extra["recipe"]
    verdict = learner.audit(
        take_snapshot(ONE), root.directory, exact.directory, exact=True, report=nothing
    )
    assert verdict.outcome is Outcome.EXACT


def test_method_original_fails_its_audit(
    learner: ModelLearner, root: Artifact, tmp_path: Path
) -> None:
    original = ModelLearner(Settings(method="original", seed=0), small_recipe, CALIBRATION)
    left = original.unlearn(
        take_snapshot(FIRST), root.directory, tmp_path / "0", strength=0, report=nothing
    )
    verdict = learner.audit(
        take_snapshot(FIRST), root.directory, left.directory, exact=False, report=nothing
    )
    assert verdict.outcome is Outcome.FAILED


def test_sharded_method_requires_retraining(root: Artifact, tmp_path: Path) -> None:
    sharded = ModelLearner(Settings(method=Sisa.name, seed=0), small_recipe, CALIBRATION)
    with pytest.raises(UnlearningFailedError):
        sharded.unlearn(
            take_snapshot(ONE), root.directory, tmp_path / "1", strength=0, report=nothing
        )
    exact = sharded.train(take_snapshot(ONE), tmp_path / "exact", root.directory, nothing)
    content = manifests.read_manifest(exact.directory).content
    assert content["backbone"] == manifests.read_manifest(root.directory).content["backbone"]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("hf:/nowhere/at/all", "no such directory"), ("lstm", "no backbone 'lstm'")],
)
def test_unavailable_backbone_raises(
    learner: ModelLearner, backbone: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        learner.train(take_snapshot(ForgetSet()), tmp_path / "r", backbone, nothing)
