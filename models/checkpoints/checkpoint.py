"""Save recommenders as directories of weights and a manifest, and load them with checks.

Loading verifies the digests, and that the model's logits on its golden prompts are those that the
manifest recorded when it was saved.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file

from models.backbones.errors import BackboneUnavailableError
from models.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    RELEASE,
    WEIGHTS,
    CheckpointError,
    Manifest,
    checked_weights,
    content_digest,
    read_manifest,
    sha256_file,
)
from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import backbone_from_manifest, build
from models.recommender.pretrained import HuggingFaceConfig
from models.recommender.trainable import ForeignWeightsError, load_state, own_state
from models.runtime.memory import attempt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.recommender.base import Recommender

#: Maximum deviation of golden logits per precision: processors differ in the last bits.
GOLDEN_TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.25}


def save(
    recommender: Recommender,
    directory: Path,
    *,
    method: str,
    parent: str | None = None,
    extra: Mapping[str, Any] | None = None,
    kind: str = RELEASE,
) -> Manifest:
    """Write weights and manifest into `directory`, which is created; return the manifest.

    `parent`: the digest of the release that this one was made from. `kind`: RELEASE or UNMERGED.
    """
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in own_state(recommender).items()
    }
    golden = recommender.prompt.golden()
    logits = recommender.logits(golden).tolist()
    return write(
        directory,
        state,
        {
            "kind": kind,
            "method": method,
            "parent": parent,
            "backbone": recommender.config.manifest(),
            "vocabulary": recommender.vocabulary.manifest(),
            "prompt": recommender.prompt.manifest(),
            "golden": {
                "tokens": golden.tokens.tolist(),
                "mask": golden.mask.tolist(),
                "logits": logits,
                "reference": _reference_logits(recommender, golden, logits),
            },
            "extra": dict(extra or {}),
        },
    )


def write(
    directory: Path, state: Mapping[str, torch.Tensor], content: Mapping[str, Any]
) -> Manifest:
    """Write tensors, and then a manifest with their digest; return the manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS
    save_file(dict(state), weights)
    full = {**content, "format": FORMAT, "weights_sha256": sha256_file(weights)}
    with_digest = {**full, "digest": content_digest(full)}
    (directory / MANIFEST).write_text(json.dumps(with_digest, indent=1))
    return read_manifest(directory)


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Read the tensors into memory, without mapping the file; raises CheckpointError if damaged."""
    path = checked_weights(directory, read_manifest(directory))
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def load(
    directory: Path,
    kind: str = RELEASE,
    *,
    manifest: Manifest | None = None,
    mapped: bool = False,
) -> Recommender:
    """Load a recommender after checking its kind and digests, and check its golden prompts.

    `manifest`: the directory's manifest, if it has been read already. `mapped`: map the weights
    file into memory, so that all processes that serve the release share its pages; the file may
    then be unlinked but not written to. Raises CheckpointError.
    """
    manifest = manifest or read_manifest(directory)
    content = manifest.content
    if content.get("kind") != kind:
        raise CheckpointError(f"{directory} contains no {kind} weights")
    # safetensors maps the file privately: a write to a tensor copies the page, not the file.
    state = load_file(checked_weights(directory, manifest))
    try:
        recommender = build(
            Vocabulary.from_manifest(content["vocabulary"]),
            backbone_from_manifest(content["backbone"]),
        )
        load_state(recommender, state, assign=mapped)
        del state
    except BackboneUnavailableError as error:
        raise CheckpointError(f"the checkpoint in {directory} has no backbone: {error}") from error
    except ForeignWeightsError as error:
        raise CheckpointError(f"the weights in {directory} do not fit: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint in {directory} does not fit its manifest") from error
    recommender.model.eval().requires_grad_(requires_grad=False)
    if content.get("prompt", {"style": "compact"}) != recommender.prompt.manifest():
        raise CheckpointError(
            f"the tokenizer of {content['backbone'].get('name')} has changed since the checkpoint"
            f" in {directory} was saved: restore the original tokenizer"
        )
    golden = content["golden"]
    logits = recommender.logits(_golden_prompts(golden))
    tolerance = GOLDEN_TOLERANCE[content["backbone"].get("dtype", "float32")]
    if not torch.allclose(logits, torch.tensor(golden["logits"]), atol=tolerance, rtol=0):
        raise CheckpointError(f"the model in {directory} fails the check of its golden prompts")
    return recommender


def _reference_logits(
    recommender: Recommender, golden: PromptBatch, logits: list[list[float]]
) -> list[list[float]] | None:
    """Return the golden logits in float32, which serving engines of any precision must match.

    Returns None if memory does not suffice; engines refuse a release without reference logits.
    """
    config = recommender.config
    if not isinstance(config, HuggingFaceConfig) or config.dtype == "float32":
        return logits

    def compute() -> list[list[float]]:
        exact = build(recommender.vocabulary, replace(config, dtype="float32"))
        load_state(exact, {name: tensor.float() for name, tensor in own_state(recommender).items()})
        reference: list[list[float]] = exact.logits(golden).tolist()
        return reference

    return attempt(compute)


def _golden_prompts(golden: Mapping[str, Any]) -> PromptBatch:
    tokens = torch.tensor(golden["tokens"])
    present = torch.tensor(golden["mask"]).bool() if "mask" in golden else None
    return PromptBatch(tokens=tokens, present=present)
