"""Adapter releases are exported as PEFT directories, and other releases are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from models.checkpoints.adapter import AdapterConfig
from models.checkpoints.checkpoint import write
from models.checkpoints.manifest import CheckpointError
from models.checkpoints.peft_export import write_peft

if TYPE_CHECKING:
    from pathlib import Path

    from models.checkpoints.manifest import Manifest

LAYER = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
TENSORS = {
    LAYER.format(layer, module, side): torch.full((2, 2), float(layer))
    for layer in (0, 1)
    for module in ("v_proj", "q_proj")
    for side in "AB"
}
SHAPE = AdapterConfig(rank=2, alpha=6, dropout=0.1, targets=("query", "value"))
BACKBONE = {"kind": "hf", "name": "org/model", "adapter": asdict(SHAPE)}


def release(directory: Path, backbone: dict[str, Any], **more: torch.Tensor) -> Manifest:
    content = {"kind": "release", "method": "train", "parent": None, "extra": {}}
    return write(directory, {**TENSORS, **more}, {**content, "backbone": backbone})


def test_peft_loads_an_exported_adapter(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE)
    target = tmp_path / "adapter"
    target.mkdir()
    write_peft(tmp_path / "release", manifest, target)
    config = LoraConfig.from_pretrained(target)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (2, 6, 0.1, "none")
    assert config.target_modules == {"q_proj", "v_proj"}
    assert config.base_model_name_or_path == "org/model"
    written = load_file(target / "adapter_model.safetensors")
    assert written.keys() == TENSORS.keys()
    # A sorted list: engines need a list, and the same release gives the same files.
    content = json.loads((target / "adapter_config.json").read_text())
    assert content["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "backbone", [{"kind": "compact"}, {**BACKBONE, "adapter": None}, {"kind": "hf", "name": "x"}]
)
def test_other_releases_are_refused_with_advice(tmp_path: Path, backbone: dict[str, Any]) -> None:
    manifest = release(tmp_path / "release", backbone)
    with pytest.raises(CheckpointError, match="LETHE_SCORER=torch"):
        write_peft(tmp_path / "release", manifest, tmp_path)


def test_tensors_other_than_lora_are_refused(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE, **{"lm_head.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="other tensors"):
        write_peft(tmp_path / "release", manifest, tmp_path)


def test_damaged_weights_are_not_exported(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE)
    (tmp_path / "release" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        write_peft(tmp_path / "release", manifest, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()
