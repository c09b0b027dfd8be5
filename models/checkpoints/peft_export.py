"""Export an adapter release as a PEFT directory, which serving engines load; without torch.

The tensors of such a release already have PEFT's names. The export adds `adapter_config.json` and
uses the file names that engines expect.
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
    """Write the adapter of a release into the existing directory `target`.

    Raises CheckpointError for a release other than a pretrained backbone with an adapter.
    """
    backbone = manifest.content.get("backbone", {})
    adapter = backbone.get("adapter")
    if backbone.get("kind") != "hf" or not adapter:
        raise CheckpointError(
            f"the release in {release} has no adapter on a pretrained backbone, which engines"
            " require: train with --backbone hf:…, or serve with LETHE_SCORER=torch"
        )
    weights = checked_weights(release, manifest)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone["name"],
        "r": adapter["rank"],
        "lora_alpha": adapter["alpha"],
        "lora_dropout": adapter["dropout"],
        "target_modules": _target_modules(weights),
        "bias": "none",
        "inference_mode": True,
    }
    shutil.copyfile(weights, target / TENSORS)
    (target / CONFIG).write_text(json.dumps(config, indent=1))


def _target_modules(weights: Path) -> list[str]:
    """Return the sorted names of the adapted modules without their parents, as engines need."""
    try:
        with safe_open(weights, framework="numpy") as opened:
            names = list(opened.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{weights} cannot be read") from error
    matches: list[Any] = [_TENSOR.fullmatch(name) for name in names]
    if not matches or not all(matches):
        raise CheckpointError(f"{weights} contains other tensors than those of a LoRA adapter")
    return sorted({match["module"].rsplit(".", 1)[-1] for match in matches})
