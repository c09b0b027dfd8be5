"""LoRA adapters: put on a recommender, written beside a manifest, and folded into the weights.

Knows PEFT. A delta that outlives its fold undoes it (old weights = folded − delta), so whoever
folds must shred what `save` wrote.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

from models.checkpoints import read_weights, write
from models.item_rows import TokenRows
from models.lora_targets import ROLES, resolve
from models.manifests import CheckpointError, Manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.recommender import Recommender

#: Names of the overwritten rows among a delta's tensors.
ROW_TOKENS: Final = "rows.tokens"
ROW_VALUES: Final = "rows.values"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The shape of an adapter: rank, scale (alpha / rank) and the roles of where it sits."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    #: Query and value alone (the paper's choice) moved a quarter as far: see docs/methods.md.
    targets: tuple[str, ...] = ROLES


def attach(recommender: Recommender, config: AdapterConfig, seed: int) -> Recommender:
    """Return a copy of the recommender with a fresh adapter, the only part that trains.

    Prompts in words leave the role `embedding` out: they contain the answers' own words, whose rows
    are the head's as well where the two are tied, and merging would move the head. Raises
    AdapterTargetError.
    """
    roles = config.targets
    if not recommender.prompt.item_tokens:
        roles = tuple(role for role in roles if role != "embedding")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Tied embeddings are merged once and the tie holds: no input is a Yes or No token (nor what
        # a decoder starts from), so the head's two rows never move. transformers warns of a
        # property that PEFT itself reads.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(
            copy.deepcopy(recommender.model).requires_grad_(requires_grad=False),
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=resolve(recommender.model, roles),
            ),
        )
    return recommender.with_model(model)


def trainable_parameters(recommender: Recommender) -> int:
    """Return how many parameters train."""
    return sum(p.numel() for p in recommender.model.parameters() if p.requires_grad)


@torch.no_grad()
def scale(recommender: Recommender, factor: float) -> None:
    """Make what the adapter adds to the weights `factor` times as large, in place."""
    for name, parameter in recommender.model.named_parameters():
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
    content = {"kind": "adapter", "method": method, "parent": parent, "adapter": asdict(config)}
    return write(directory, state, {**content, "extra": dict(extra)})


def fold(parent: Recommender, parent_digest: str, directory: Path) -> Recommender:
    """Fold the adapter in `directory`, and its rows, into a copy of its parent's weights.

    Raises CheckpointError where the adapter belongs to another parent or does not fit.
    """
    manifest = read_manifest(directory)
    if manifest.content.get("kind") != "adapter" or manifest.parent != parent_digest:
        raise CheckpointError(f"{directory} holds no adapter of release {parent_digest[:12]}")
    shape = dict(manifest.content["adapter"])
    config = AdapterConfig(**{**shape, "targets": tuple(shape["targets"])})
    state = read_weights(directory)
    base = with_rows(parent, _rows(state, directory))
    wrapped = attach(base, config, seed=0)
    expected = get_peft_model_state_dict(wrapped.model, save_embedding_layers=False)
    if _shapes(state) != _shapes(expected):
        raise CheckpointError(f"the adapter in {directory} does not fit its parent")
    set_peft_model_state_dict(wrapped.model, state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied embeddings again: see `attach`.
        folded = wrapped.model.merge_and_unload()  # type: ignore[operator] # PEFT is untyped
    return parent.with_model(folded)


def with_rows(recommender: Recommender, rows: TokenRows) -> Recommender:
    """Return a copy of the recommender with these rows."""
    copied = recommender.with_model(copy.deepcopy(recommender.model))
    rows.put(copied)
    return copied


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
