"""What engines load is PEFT's own directory, from nothing but a release of an adapter."""

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


def test_peft_reads_what_was_written(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE)
    target = tmp_path / "adapter"
    target.mkdir()
    write_peft(tmp_path / "release", manifest, target)
    found = LoraConfig.from_pretrained(target)
    assert (found.r, found.lora_alpha, found.lora_dropout, found.bias) == (2, 6, 0.1, "none")
    assert found.target_modules == {"q_proj", "v_proj"}
    assert found.base_model_name_or_path == "org/model"
    written = load_file(target / "adapter_model.safetensors")
    assert written.keys() == TENSORS.keys()
    # Lists, as engines want them, and always in one order: the same release is the same files.
    config = json.loads((target / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "backbone", [{"kind": "compact"}, {**BACKBONE, "adapter": None}, {"kind": "hf", "name": "x"}]
)
def test_other_releases_are_refused_with_the_way_out(
    tmp_path: Path, backbone: dict[str, Any]
) -> None:
    manifest = release(tmp_path / "release", backbone)
    with pytest.raises(CheckpointError, match="LETHE_SCORER=torch"):
        write_peft(tmp_path / "release", manifest, tmp_path)


def test_tensors_that_an_engine_would_pass_over_are_refused(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE, **{"lm_head.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="other tensors"):
        write_peft(tmp_path / "release", manifest, tmp_path)


def test_damaged_weights_are_given_to_nobody(tmp_path: Path) -> None:
    manifest = release(tmp_path / "release", BACKBONE)
    (tmp_path / "release" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        write_peft(tmp_path / "release", manifest, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()
