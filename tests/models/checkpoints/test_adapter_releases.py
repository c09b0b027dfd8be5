"""Adapter releases: training and unlearning change the adapter, never the public backbone."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch

from models.backbones.lora import AdapterConfig
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.checkpoints.adapter import attach, scale
from models.recommender.factory import backbone_from_manifest, build
from models.recommender.pretrained import HuggingFaceConfig
from models.recommender.trainable import (
    ForeignWeightsError,
    copy_recommender,
    load_state,
    own_state,
    set_trainable,
)
from models.training.trainer import TrainConfig, fit, margins
from models.unlearning.base import PLAIN
from tests.models.unlearning.test_methods_on_backbones import METHODS, SAMPLES, VOCABULARY, task
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

SHAPE = AdapterConfig(rank=3, alpha=6, dropout=0.0, targets=("query", "value", "mlp"))
RECIPE = TrainConfig(batch_size=16, learning_rate=3e-3, warmup_steps=2, validations=1)
plain_methods = pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.root == PLAIN]
)


@dataclass(frozen=True, kw_only=True)
class World:
    """A trained adapter release on a tiny language model, and the same model without an adapter."""

    config: HuggingFaceConfig
    public: Recommender
    trained: Recommender
    prompts: PromptBatch


@pytest.fixture(scope="module", params=[*tiny.CAUSAL, *tiny.SEQUENCE])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    named = tiny.save(request.param, tmp_path_factory.mktemp(request.param))
    assert isinstance(named, HuggingFaceConfig)
    config = replace(named, adapter=SHAPE)
    public = build(VOCABULARY, named)
    recipe = replace(RECIPE, backbone=config)
    trained = fit(VOCABULARY, task(public).prepared, recipe, lambda _fraction: None)
    prompts = public.prompt.samples(SAMPLES, tiny.DATA).take(slice(0, 12))
    return World(config=config, public=public, trained=trained, prompts=prompts)


def base_state(recommender: Recommender) -> dict[str, torch.Tensor]:
    """Return the backbone's tensors of an adapter release, with their names in the public model."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for name, tensor in recommender.model.state_dict().items()
        if "lora_" not in name
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def close(first: Recommender, second: Recommender, prompts: PromptBatch) -> bool:
    return torch.allclose(margins(first, prompts), margins(second, prompts), atol=1e-5)


def test_training_changes_the_adapter_and_not_the_backbone(world: World) -> None:
    assert same(base_state(world.trained), world.public.model.state_dict())
    fresh = build(VOCABULARY, world.config)
    assert close(fresh, world.public, world.prompts)
    assert not torch.allclose(
        margins(world.trained, world.prompts), margins(world.public, world.prompts), atol=1e-3
    )


def test_a_release_without_its_adapter_is_the_public_model(world: World) -> None:
    detached = copy_recommender(world.trained)
    detached = detached.with_model(detached.model.unload())  # type: ignore[operator]
    assert same(detached.model.state_dict(), world.public.model.state_dict())
    assert close(detached, world.public, world.prompts)


def test_a_release_stores_only_the_adapter_and_loads_with_the_same_margins(
    world: World, tmp_path: Path
) -> None:
    checkpoints.save(world.trained, tmp_path / "r", method="train")
    saved = checkpoints.read_weights(tmp_path / "r")
    assert all("lora_" in name for name in saved)
    assert {tensor.shape[0] for name, tensor in saved.items() if "lora_A" in name} == {SHAPE.rank}
    loaded = checkpoints.load(tmp_path / "r")
    assert loaded.config == world.trained.config
    assert torch.equal(margins(loaded, world.prompts), margins(world.trained, world.prompts))


def test_releases_in_one_process_share_the_backbone_and_not_adapters(
    world: World, tmp_path: Path
) -> None:
    checkpoints.save(world.trained, tmp_path / "r", method="train")
    first, second = checkpoints.load(tmp_path / "r"), checkpoints.load(tmp_path / "r")
    first_base, second_base = base_state(first), base_state(second)
    assert all(first_base[name].data_ptr() == second_base[name].data_ptr() for name in first_base)
    own, other = own_state(first), own_state(second)
    assert all(own[name].data_ptr() != other[name].data_ptr() for name in own)
    adapter = weakref.ref(next(iter(set_trainable(first, train=False))))
    del first_base, second_base, own, other, first
    gc.collect()
    assert adapter() is None  # The first adapter is freed, and the second release stays usable.
    assert torch.equal(margins(second, world.prompts), margins(world.trained, world.prompts))


@plain_methods
def test_every_method_returns_a_new_adapter_that_replaces_the_old_one(
    world: World, name: str
) -> None:
    before = {key: tensor.clone() for key, tensor in own_state(world.trained).items()}
    unlearned = METHODS[name].unlearn(task(world.trained), lambda _fraction: None)
    assert same(own_state(world.trained), before)
    assert unlearned.recommender.config == world.trained.config
    assert own_state(unlearned.recommender).keys() == before.keys()
    assert not same(own_state(unlearned.recommender), before)
    assert same(base_state(unlearned.recommender), world.public.model.state_dict())
    count = unlearned.metrics["trainable_parameters"]
    assert count == sum(tensor.numel() for tensor in before.values())


def test_scale_interpolates_between_the_old_and_the_new_adapter(world: World) -> None:
    student = attach(world.trained, AdapterConfig(rank=99), seed=1)
    with torch.no_grad():
        for parameter in set_trainable(student, train=True):
            parameter.add_(0.1)
    moved = {name: tensor.clone() for name, tensor in own_state(student).items()}
    start = own_state(world.trained)
    scale(student, world.trained, 0.5)
    for name, tensor in own_state(student).items():
        assert torch.allclose(tensor, (moved[name] + start[name]) / 2, atol=1e-6)


def test_weights_of_another_shape_or_name_are_refused(world: World, tmp_path: Path) -> None:
    other = build(VOCABULARY, replace(world.config, adapter=replace(SHAPE, rank=4)))
    with pytest.raises(ForeignWeightsError):
        load_state(other, own_state(world.trained))
    with pytest.raises(ForeignWeightsError):
        load_state(other, {})
    checkpoints.save(world.trained, tmp_path / "r", method="train")
    manifest = tmp_path / "r" / manifests.MANIFEST
    content = json.loads(manifest.read_text())
    content["backbone"]["adapter"]["rank"] = 4
    content.pop("digest")
    checkpoints.write(tmp_path / "s", checkpoints.read_weights(tmp_path / "r"), content)
    with pytest.raises(manifests.CheckpointError, match="do not fit"):
        checkpoints.load(tmp_path / "s")


def test_the_manifest_contains_the_adapters_shape(world: World) -> None:
    manifest = json.loads(json.dumps(world.config.manifest()))
    assert manifest["adapter"]["targets"] == list(SHAPE.targets)
    assert backbone_from_manifest(manifest) == world.config
