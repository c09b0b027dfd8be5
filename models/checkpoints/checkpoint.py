"""Save recommenders as directories of weights and a manifest, and load them with checks.

Loading checks the digests, and that the model answers its golden prompts as when it was saved.
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
from models.recommender.trainable import ForeignWeightsError, adopt_state, own_state, put_state
from models.runtime.memory import attempt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.recommender.base import Recommender

#: On another processor the last bits may differ; a wrong tensor differs in the first.
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
    """Write weights and manifest into `directory`, which is made; return the manifest.

    `parent` is the digest of the release that this one came from; `kind` is RELEASE or UNFOLDED.
    """
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in own_state(recommender).items()
    }
    golden = recommender.prompt.golden()
    answers = recommender.logits(golden).tolist()
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
                "logits": answers,
                "reference": _reference(recommender, golden, answers),
            },
            "extra": dict(extra or {}),
        },
    )


def write(
    directory: Path, state: Mapping[str, torch.Tensor], content: Mapping[str, Any]
) -> Manifest:
    """Write tensors and a manifest that names them; the manifest comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS
    save_file(dict(state), weights)
    full = {**content, "format": FORMAT, "weights_sha256": sha256_file(weights)}
    named = {**full, "digest": content_digest(full)}
    (directory / MANIFEST).write_text(json.dumps(named, indent=1))
    return read_manifest(directory)


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Read the tensors into memory (no file stays mapped); raises CheckpointError if damaged."""
    path = checked_weights(directory, read_manifest(directory))
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def load(
    directory: Path,
    kind: str = RELEASE,
    *,
    manifest: Manifest | None = None,
    mapped: bool = False,
) -> Recommender:
    """Load a recommender, checked against its kind, its digest and its golden prompts.

    `manifest` is what has been read of the directory already. With `mapped`, weights stay in the
    file's pages, which all processes share that serve the same release; such a file may be unlinked
    but never written to. Raises CheckpointError.
    """
    manifest = manifest or read_manifest(directory)
    content = manifest.content
    if content.get("kind") != kind:
        raise CheckpointError(f"{directory} holds no {kind} weights")
    # Mapped privately: who writes to a tensor gets pages of their own, and the file stays.
    state = load_file(checked_weights(directory, manifest))
    try:
        recommender = build(
            Vocabulary.from_manifest(content["vocabulary"]),
            backbone_from_manifest(content["backbone"]),
        )
        (adopt_state if mapped else put_state)(recommender, state)
        del state
    except BackboneUnavailableError as error:
        raise CheckpointError(f"the checkpoint in {directory} has no source: {error}") from error
    except ForeignWeightsError as error:
        raise CheckpointError(f"the weights in {directory} do not fit it: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint in {directory} does not fit its manifest") from error
    recommender.model.eval().requires_grad_(requires_grad=False)
    if content.get("prompt", {"style": "compact"}) != recommender.prompt.manifest():
        raise CheckpointError(
            f"the tokenizer of {content['backbone'].get('name')} has changed since the checkpoint"
            f" in {directory} was made: bring back the one that it was trained with"
        )
    golden = content["golden"]
    found = recommender.logits(_golden(golden))
    tolerance = GOLDEN_TOLERANCE[content["backbone"].get("dtype", "float32")]
    if not torch.allclose(found, torch.tensor(golden["logits"]), atol=tolerance, rtol=0):
        raise CheckpointError(f"the model in {directory} does not answer its golden prompts")
    return recommender


def _reference(
    recommender: Recommender, golden: PromptBatch, answers: list[list[float]]
) -> list[list[float]] | None:
    """Return the golden answers in float32, whatever precision is served: what engines must match.

    Where that does not fit into memory beside it, the manifest has none, and engines refuse it.
    """
    config = recommender.config
    if not isinstance(config, HuggingFaceConfig) or config.dtype == "float32":
        return answers

    def exactly() -> list[list[float]]:
        exact = build(recommender.vocabulary, replace(config, dtype="float32"))
        put_state(exact, {name: tensor.float() for name, tensor in own_state(recommender).items()})
        found: list[list[float]] = exact.logits(golden).tolist()
        return found

    return attempt(exactly)


def _golden(golden: Mapping[str, Any]) -> PromptBatch:
    tokens = torch.tensor(golden["tokens"])
    present = torch.tensor(golden["mask"]).bool() if "mask" in golden else None
    return PromptBatch(tokens=tokens, present=present)
