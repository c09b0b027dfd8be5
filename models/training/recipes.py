"""Recipes for first releases, by kind of backbone. Measurements are in docs/methods.md."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from models.backbones.lora import AdapterConfig
from models.data.splits import RowLimits
from models.prompts.templates import SHARED_PREFIX
from models.recommender.factory import backbone_from_manifest
from models.recommender.pretrained import HuggingFaceConfig
from models.runtime.devices import choose_dtype, machine
from models.training.trainer import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.backbones.compact import BackboneConfig

#: The trained part of a pretrained model: every linear layer, about 2 % of 135 M parameters.
ADAPTER: Final = AdapterConfig(
    rank=8, alpha=16, dropout=0.0, targets=("query", "key", "value", "output", "mlp")
)
#: Recipe for instruction tuning of an adapter. More rows than these improve a pretrained model
#: little.
LANGUAGE: Final = TrainConfig(
    learning_rate=1e-4,
    weight_decay=0.0,
    batch_size=16,
    warmup_steps=10,
    validations=2,
    limits=RowLimits(train=4000, evaluation=400),
)


def recipe_for(backbone: BackboneConfig, *, dtype: str = "float32") -> TrainConfig:
    """Return the product's recipe: an adapter on a pretrained model, all weights of a compact one.

    `dtype` is the precision of a pretrained model on this process's device (auto: the measured
    precision); its adapter stays in float32. Raises ValueError for an unknown precision.
    """
    if not isinstance(backbone, HuggingFaceConfig):
        return TrainConfig(backbone=backbone)
    chosen = choose_dtype(dtype, machine().device)
    tuned = replace(backbone, dtype=chosen, wording=SHARED_PREFIX, adapter=ADAPTER)
    return replace(LANGUAGE, backbone=tuned)


def recipe_of(manifest: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a recipe from its manifest.

    Raises UnknownBackboneError for an unknown backbone, and TypeError or KeyError for a manifest
    that is not a recipe.
    """
    limits = RowLimits.from_manifest(manifest.get("limits", {}))
    backbone = backbone_from_manifest(manifest["backbone"])
    return TrainConfig(**{**manifest, "backbone": backbone, "limits": limits})
