"""Renew a release that has forgotten others: nothing of the parent is left but its recipe.

A renewal calls `Learner.train` with the directory of the live release. The result must equal, byte
for byte, the first training of an installation that never had the forgotten persons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.domain.errors import InvalidInputError
from app.domain.jobs import Stage
from app.settings import Settings
from models.backbones import packaged
from models.backbones.compact import CompactConfig, CompactT5Config
from models.checkpoints import manifest as manifests
from models.recommender.factory import backbone_from_manifest, build
from models.recommender.pretrained import HuggingFaceConfig
from models.unlearning.registry import get_method
from models.unlearning.retrain import Retrain
from models.unlearning.sisa import Sisa, SisaConfig
from tests.support import model_packages
from tests.support import tiny_models as tiny
from tests.support.planted_tastes import CALIBRATION
from tests.worker.test_exact_retraining import (
    BRIEF,
    METHODS,
    PERSON,
    content,
    never_had_person,
    nothing,
    snapshot,
    world,
)
from tests.worker.test_trainer_on_adapters import small_recipe
from worker.failures import describe_failure
from worker.learner import ForgetSet
from worker.trainer import ModelLearner

if TYPE_CHECKING:
    from pathlib import Path

    from models.backbones.compact import BackboneConfig
    from models.data.interactions import Interactions
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningMethod
    from worker.learner import Artifact, DataSnapshot

pytestmark = pytest.mark.slow

NOTHING = ForgetSet()
FORGET_PERSON = ForgetSet(users=frozenset([PERSON]))
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "intermediate_size": 32,
    "init_std": 0.1,
}


def small_compact(backbone: BackboneConfig) -> TrainConfig:
    """Return the recipe of a short training of a small compact model of the backbone's kind."""
    is_t5 = isinstance(backbone, CompactT5Config)
    return replace(BRIEF, backbone=CompactT5Config(**SHAPE) if is_t5 else CompactConfig(**SHAPE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of release: its backbone, and the method of its learner."""

    backbone: str
    method: UnlearningMethod

    def learner(self) -> ModelLearner:
        is_compact = self.backbone.startswith("compact")
        recipes = small_compact if is_compact else small_recipe
        learner = ModelLearner(Settings(method="e2urec-fast", seed=0), recipes, CALIBRATION)
        learner._method = self.method
        return learner


@pytest.fixture
def public_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the directory of a Python package with a tiny language model, as `smollm2` is one."""
    packages = tmp_path / "packages"
    model_packages.write(packages)
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setitem(packaged.PACKAGED, model_packages.NAME, model_packages.PACKAGE)
    monkeypatch.setattr(packaged._CACHE, "directory", tmp_path / "converted")
    return packages


def as_live_release(
    learner: ModelLearner, root: Artifact, data: Interactions, into: Path
) -> tuple[Artifact, DataSnapshot]:
    """Forget the person by the learner's method, as the release that a renewal finds is made.

    Return the release, and the snapshot of the renewal, which has no row of the person.
    """
    batch = snapshot(data, FORGET_PERSON, "forget")
    release = learner.unlearn(batch, root.directory, into / "u", strength=0, report=nothing)
    if release.needs_merge:
        release = learner.merge(root.directory, release.directory, into / "m")
    person = next(n for n, user in enumerate(data.users) if user.id == PERSON)
    return release, snapshot(data.take(data.user != person), NOTHING)


@pytest.mark.parametrize(
    "kind",
    [
        Kind(backbone="compact", method=get_method("e2urec-fast")),
        Kind(backbone="compact-t5", method=get_method("e2urec-fast")),
        Kind(backbone="hf", method=get_method("e2urec-fast")),
        Kind(backbone=model_packages.NAME, method=get_method("e2urec-fast")),
        *(
            Kind(backbone="compact", method=method)
            for method in METHODS
            if method.name != "retrain"
        ),
        Kind(backbone="compact-t5", method=Sisa(SisaConfig(passes=1))),
    ],
    ids=lambda kind: f"{kind.backbone} {kind.method.name}",
)
def test_renewal_equals_an_installation_that_never_had_the_person(
    kind: Kind, public_package: Path, tmp_path: Path
) -> None:
    """The parent has forgotten the person approximately, and inherits what the person chose."""
    assert public_package.is_dir()
    backbone = kind.backbone
    if backbone == "hf":
        tiny.save("llama", tmp_path / "public")
        backbone = f"hf:{tmp_path / 'public'}"
    data, learner = world(), kind.learner()
    root = learner.train(snapshot(data, NOTHING, "first"), tmp_path / "p", backbone, nothing)
    parent, renewal = as_live_release(learner, root, data, tmp_path)
    renewed = learner.train(renewal, tmp_path / "renewed", parent.directory, nothing)
    never = learner.train(
        snapshot(never_had_person(data), NOTHING), tmp_path / "never", backbone, nothing
    )
    assert content(renewed) == content(never)
    assert renewed.digest == never.digest
    assert (renewed.training_rows, renewed.evaluation) == (never.training_rows, never.evaluation)
    before, after = content(root), content(renewed)
    assert after["extra"]["bounds"] != before["extra"]["bounds"]
    assert after["vocabulary"] != before["vocabulary"]
    assert after["extra"]["evaluation"] != before["extra"]["evaluation"]
    if kind.method.root == "plain":
        assert after["extra"]["expected"] != before["extra"]["expected"]


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[ModelLearner, Artifact, DataSnapshot]:
    """Provide a learner, its release on a public model, and the snapshot of a renewal."""
    learner = Kind(backbone="hf", method=get_method("e2urec-fast")).learner()
    tiny.save("llama", tmp_path / "public")
    data = world()
    root = learner.train(
        snapshot(data, NOTHING), tmp_path / "p", f"hf:{tmp_path / 'public'}", nothing
    )
    return learner, root, snapshot(data, FORGET_PERSON)


def test_renewal_trains_a_new_adapter_on_the_public_weights(
    adapted: tuple[ModelLearner, Artifact, DataSnapshot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The weights of the parent are unreadable, so that no training can start from them."""
    learner, root, renewal = adapted
    expected = learner.train(renewal, tmp_path / "1", root.directory, nothing)
    (root.directory / manifests.WEIGHTS).write_bytes(b"")
    started: list[HuggingFaceConfig] = []

    def recording(vocabulary: Any, config: Any) -> Any:
        started.append(config)
        return build(vocabulary, config)

    monkeypatch.setattr("models.training.trainer.build", recording)
    renewed = learner.train(renewal, tmp_path / "2", root.directory, nothing)
    assert renewed.digest == expected.digest
    pinned = backbone_from_manifest(manifests.read_manifest(root.directory).content["backbone"])
    assert isinstance(pinned, HuggingFaceConfig)
    assert pinned.source_sha256 is not None
    # The model, and the shadow model of the calibration.
    assert [config.source_sha256 for config in started] == [pinned.source_sha256] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [("other weights", "its weights have changed"), ("no weights", "public")],
)
def test_renewal_without_the_public_weights_is_a_fault_of_the_environment(
    adapted: tuple[ModelLearner, Artifact, DataSnapshot],
    change: str,
    message: str,
    tmp_path: Path,
) -> None:
    learner, root, renewal = adapted
    weights = tmp_path / "public" / "model.safetensors"
    if change == "other weights":
        content_bytes = bytearray(weights.read_bytes())
        content_bytes[-4:] = np.float32(0.5).tobytes()
        weights.write_bytes(bytes(content_bytes))
    else:
        weights.unlink()
    with pytest.raises(InvalidInputError, match=message) as raised:
        learner.train(renewal, tmp_path / "a", root.directory, nothing)
    failure = describe_failure(raised.value, Stage.TRAIN, [])
    assert failure.is_environmental
    assert message in failure.text
    assert not (tmp_path / "a").exists()


def test_renewal_without_the_public_package_is_a_fault_of_the_environment(
    public_package: Path, tmp_path: Path
) -> None:
    kind = Kind(backbone=model_packages.NAME, method=Retrain())
    learner, data = kind.learner(), world()
    root = learner.train(snapshot(data, NOTHING), tmp_path / "p", kind.backbone, nothing)
    model_packages.write(public_package, seed=1)  # A later version of the package.
    with pytest.raises(InvalidInputError, match="its weights have changed") as raised:
        learner.train(snapshot(data, FORGET_PERSON), tmp_path / "a", root.directory, nothing)
    assert describe_failure(raised.value, Stage.TRAIN, []).is_environmental
    (public_package / model_packages.PACKAGE.module / model_packages.PACKAGE.file).unlink()
    with pytest.raises(InvalidInputError, match="is missing") as raised:
        learner.train(snapshot(data, FORGET_PERSON), tmp_path / "a", root.directory, nothing)
    assert describe_failure(raised.value, Stage.TRAIN, []).is_environmental
