"""How first releases are trained, by the kind of backbone. What was measured: docs/methods.md."""

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

#: All that is learned of users: on every linear layer, about 2 % of a model of 135 M parameters.
ADAPTER: Final = AdapterConfig(
    rank=8, alpha=16, dropout=0.0, targets=("query", "key", "value", "output", "mlp")
)
#: Instruction tuning of an adapter. A few thousand rows teach a pretrained model what it can learn.
LANGUAGE: Final = TrainConfig(
    learning_rate=1e-4,
    weight_decay=0.0,
    batch_size=16,
    warmup_steps=10,
    validations=2,
    limits=RowLimits(train=4000, evaluation=400),
)


def recipe_for(backbone: BackboneConfig, *, dtype: str = "float32") -> TrainConfig:
    """Return the product's recipe: pretrained models learn in an adapter, compact ones in all.

    `dtype` is the precision of a pretrained model on this process's device (auto: the measured
    one); its adapter stays in float32. Raises ValueError for a precision that there is not.
    """
    if not isinstance(backbone, HuggingFaceConfig):
        return TrainConfig(backbone=backbone)
    chosen = choose_dtype(dtype, machine().device)
    tuned = replace(backbone, dtype=chosen, wording=SHARED_PREFIX, adapter=ADAPTER)
    return replace(LANGUAGE, backbone=tuned)


def recipe_of(manifest: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a recipe; raises UnknownBackboneError, and TypeError or KeyError for no recipe."""
    limits = RowLimits.from_manifest(manifest.get("limits", {}))
    backbone = backbone_from_manifest(manifest["backbone"])
    return TrainConfig(**{**manifest, "backbone": backbone, "limits": limits})
