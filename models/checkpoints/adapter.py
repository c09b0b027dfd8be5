"""Attach LoRA adapters to recommenders, save them with a manifest, and merge them into weights.

After a merge, the caller must shred the saved adapter: merged weights minus the adapter are the old
weights, so that a remaining adapter would undo the deletion.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from models.backbones.lora import AdapterConfig, add_adapter
from models.checkpoints.checkpoint import read_weights, write
from models.checkpoints.manifest import CheckpointError, Manifest, read_manifest
from models.recommender.token_rows import TokenRows, with_rows
from models.recommender.trainable import copy_recommender, own_state, set_trainable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.recommender.base import Recommender

#: Names of the replaced embedding rows among the tensors of a saved adapter.
ROW_TOKENS: Final = "rows.tokens"
ROW_VALUES: Final = "rows.values"


def attach(recommender: Recommender, config: AdapterConfig, seed: int) -> Recommender:
    """Return a copy of the recommender in which only an adapter is trainable.

    If the release itself is an adapter (language models), the copy contains a trainable copy of
    that adapter, which becomes the next release; `config` is ignored. Otherwise, a new adapter with
    the shape `config` is added.
    Text prompts drop the role `embedding`: they may contain the answers' words, whose rows a tied
    head shares, so that a merge would change the head. Raises AdapterTargetError.
    """
    student = copy_recommender(recommender)
    if recommender.config.adapter is not None:
        set_trainable(student, train=True)
        return student
    roles = config.targets
    if not recommender.prompt.item_tokens:
        roles = tuple(role for role in roles if role != "embedding")
    return student.with_model(add_adapter(student.model, replace(config, targets=roles), seed))


@torch.no_grad()
def scale(student: Recommender, start: Recommender, factor: float) -> None:
    """Scale in place what training changed in `student`, which `attach(start, …)` returned.

    Factor 0 gives the answers of `start`; factor 1 changes nothing.
    For a new adapter, the change is the delta that it adds to the weights. For an adapter that
    replaces another, it is the difference of the parameters.
    """
    if start.config.adapter is not None:
        before = own_state(start)
        for name, parameter in own_state(student).items():
            parameter.copy_(torch.lerp(before[name], parameter, factor))
        return
    for name, parameter in student.model.named_parameters():
        if ".lora_B." in name or ".lora_embedding_B." in name:
            parameter.mul_(factor)


def save(
    recommender: Recommender,
    directory: Path,
    config: AdapterConfig,
    *,
    method: str,
    parent: str,
    extra: Mapping[str, Any],
    rows: TokenRows | None = None,
) -> Manifest:
    """Write the adapter of a recommender from `attach` into `directory`.

    `parent`: the digest of the release that the adapter was made from. `rows`: the embedding rows
    in which the adapter's base differs from that release.
    """
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in get_peft_model_state_dict(
            recommender.model, save_embedding_layers=False
        ).items()
    }
    if rows is not None:
        state |= {ROW_TOKENS: rows.tokens, ROW_VALUES: rows.values}
    content = {"kind": "adapter", "method": method, "parent": parent, "adapter": config.manifest()}
    return write(directory, state, {**content, "extra": dict(extra)})


def merge(parent: Recommender, parent_digest: str, directory: Path) -> Recommender:
    """Merge the adapter in `directory`, and its rows, into a copy of its parent's weights.

    Raises CheckpointError if the adapter has another parent, or tensors that do not fit.
    """
    manifest = read_manifest(directory)
    if manifest.content.get("kind") != "adapter" or manifest.parent != parent_digest:
        raise CheckpointError(f"{directory} holds no adapter of release {parent_digest[:12]}")
    config = AdapterConfig.from_manifest(manifest.content["adapter"])
    state = read_weights(directory)
    base = with_rows(parent, _pop_rows(state, directory))
    wrapped = attach(base, config, seed=0)
    expected = get_peft_model_state_dict(wrapped.model, save_embedding_layers=False)
    if _shapes(state) != _shapes(expected):
        raise CheckpointError(f"the adapter in {directory} does not fit its parent")
    set_peft_model_state_dict(wrapped.model, state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied embeddings: see `lora.add_adapter`.
        merged = wrapped.model.merge_and_unload()  # type: ignore[operator] # PEFT is untyped
    return parent.with_model(merged)


def _pop_rows(state: dict[str, torch.Tensor], directory: Path) -> TokenRows:
    """Remove the rows from an adapter's tensors; raises CheckpointError if they do not match."""
    tokens, values = state.pop(ROW_TOKENS, None), state.pop(ROW_VALUES, None)
    if tokens is None and values is None:
        return TokenRows.empty()
    if tokens is None or values is None or len(tokens) != len(values):
        raise CheckpointError(f"the adapter in {directory} has rows that do not match")
    return TokenRows(tokens=tokens, values=values)


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
