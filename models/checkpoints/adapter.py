"""LoRA adapters: put on a recommender, written beside a manifest, and folded into the weights.

Knows PEFT. A delta that outlives its fold undoes it (old weights = folded − delta), so whoever
folds must shred what `save` wrote.
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
from models.recommender.token_rows import TokenRows
from models.recommender.trainable import copy_recommender, own_state, set_trainable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.recommender.base import Recommender

#: Names of the overwritten rows among a delta's tensors.
ROW_TOKENS: Final = "rows.tokens"
ROW_VALUES: Final = "rows.values"


def attach(recommender: Recommender, config: AdapterConfig, seed: int) -> Recommender:
    """Return a copy of the recommender whose adapter is the only part that trains.

    Where all that was learned is in one adapter already, that is a copy of this adapter, of its own
    shape, which is to replace it; else a fresh one of the shape that is given. Prompts in words
    leave the role `embedding` out: they contain the answers' own words, whose rows are the head's
    as well where the two are tied, and merging would move the head. Raises AdapterTargetError.
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
    """Make the way that `attach(start, …)` has been trained along `factor` times as long, in place.

    For a fresh adapter that is what it adds to the weights; for one that replaces another, what
    its parameters differ in.
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
    """Write the adapter of a recommender made by `attach`; `parent` is its release's digest.

    `rows` are those that its base differs in from that release.
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
    """Fold the adapter in `directory`, and its rows, into a copy of its parent's weights.

    Raises CheckpointError where the adapter belongs to another parent or does not fit.
    """
    manifest = read_manifest(directory)
    if manifest.content.get("kind") != "adapter" or manifest.parent != parent_digest:
        raise CheckpointError(f"{directory} holds no adapter of release {parent_digest[:12]}")
    config = AdapterConfig.from_manifest(manifest.content["adapter"])
    state = read_weights(directory)
    base = with_rows(parent, _rows(state, directory))
    wrapped = attach(base, config, seed=0)
    expected = get_peft_model_state_dict(wrapped.model, save_embedding_layers=False)
    if _shapes(state) != _shapes(expected):
        raise CheckpointError(f"the adapter in {directory} does not fit its parent")
    set_peft_model_state_dict(wrapped.model, state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied embeddings again: see `attach`.
        merged = wrapped.model.merge_and_unload()  # type: ignore[operator] # PEFT is untyped
    return parent.with_model(merged)


def with_rows(recommender: Recommender, rows: TokenRows) -> Recommender:
    """Return a copy of the recommender with these rows."""
    found = copy_recommender(recommender)
    rows.put(found)
    return found


def _rows(state: dict[str, torch.Tensor], directory: Path) -> TokenRows:
    """Take the rows out of a delta's tensors; raises CheckpointError for half of them."""
    found = {name: state.pop(name) for name in (ROW_TOKENS, ROW_VALUES) if name in state}
    if not found:
        return TokenRows(tokens=torch.empty(0, dtype=torch.long), values=torch.empty(0))
    if len(found) != 2 or len(found[ROW_TOKENS]) != len(found[ROW_VALUES]):  # noqa: PLR2004
        raise CheckpointError(f"the adapter in {directory} has rows that do not match")
    return TokenRows(tokens=found[ROW_TOKENS], values=found[ROW_VALUES])


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
