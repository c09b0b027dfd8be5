"""A text release as the directory that PEFT writes and serving engines load. Knows no torch.

A release of a public backbone and one LoRA adapter holds PEFT's own tensors already; what engines
want besides is `adapter_config.json`, and their names for the files.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from models.checkpoints.manifest import CheckpointError, checked_weights

if TYPE_CHECKING:
    from pathlib import Path

    from models.checkpoints.manifest import Manifest

TENSORS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_[AB]\.weight")


def write_peft(release: Path, manifest: Manifest, target: Path) -> None:
    """Write the adapter of a release into the directory `target`, which is there.

    Raises CheckpointError for a release that is no causal backbone with one adapter.
    """
    backbone = manifest.content.get("backbone", {})
    shape = backbone.get("adapter")
    if backbone.get("kind") != "hf" or not shape:
        raise CheckpointError(
            f"the release in {release} is no public backbone with an adapter, which is all that a"
            " serving engine can load: train with --backbone hf:…, or serve with LETHE_SCORER=torch"
        )
    weights = checked_weights(release, manifest)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone["name"],
        "r": shape["rank"],
        "lora_alpha": shape["alpha"],
        "lora_dropout": shape["dropout"],
        "target_modules": _target_modules(weights),
        "bias": "none",
        "inference_mode": True,
    }
    shutil.copyfile(weights, target / TENSORS)
    (target / CONFIG).write_text(json.dumps(config, indent=1))


def _target_modules(weights: Path) -> list[str]:
    """Return the last names of the adapted modules, by which engines know them, in order."""
    try:
        with safe_open(weights, framework="numpy") as opened:
            names = list(opened.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{weights} cannot be read") from error
    found: list[Any] = [_TENSOR.fullmatch(name) for name in names]
    if not found or not all(found):
        raise CheckpointError(f"{weights} holds other tensors than those of a LoRA adapter")
    return sorted({match["module"].rsplit(".", 1)[-1] for match in found})
