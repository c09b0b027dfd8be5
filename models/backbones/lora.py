"""Describe a LoRA adapter, find its target modules in any architecture, and add it to a model."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from peft import LoraConfig, get_peft_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

#: Suffixes of module names per role: Llama, Qwen, SmolLM, Mistral, Gemma and Phi; T5; OPT and BART;
#: GPT-2, GPT-J, GPT-NeoX, BLOOM and Falcon. As in PEFT, a fused projection of query, key and value
#: belongs to all three roles.
_MODULE_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "query": ("q_proj", "q", "c_attn", "query_key_value", "qkv_proj", "Wqkv"),
    "key": ("k_proj", "k", "c_attn", "query_key_value", "qkv_proj", "Wqkv"),
    "value": ("v_proj", "v", "c_attn", "query_key_value", "qkv_proj", "Wqkv"),
    "output": (
        *("o_proj", "o", "out_proj", "attn.c_proj"),
        *("attention.dense", "self_attention.dense", "self_attn.dense"),
    ),
    "mlp": (
        *("gate_proj", "up_proj", "down_proj", "gate_up_proj", "wi", "wi_0", "wi_1", "wo"),
        *("fc1", "fc2", "fc_in", "fc_out", "mlp.c_fc", "mlp.c_proj"),
        *("dense_h_to_4h", "dense_4h_to_h"),
    ),
}
#: `embedding` is the model's input embedding, whatever its module name.
ROLES: Final = (*_MODULE_SUFFIXES, "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The shape of an adapter: rank, scale (alpha / rank), dropout and the roles of its targets."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    #: With query and value alone (the paper's choice) the adapter had a quarter of the effect:
    #: docs/methods.md.
    targets: tuple[str, ...] = ROLES

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Rebuild a shape from `manifest()`; raises TypeError or KeyError for other values."""
        return cls(**{**manifest, "targets": tuple(manifest["targets"])})

    def manifest(self) -> dict[str, Any]:
        """Return the shape as JSON values."""
        return {**asdict(self), "targets": list(self.targets)}


class AdapterTargetError(ValueError):
    """A target role is unknown, or the architecture has no module with this role."""


def find_target_modules(model: nn.Module, roles: Sequence[str]) -> list[str]:
    """Return the sorted full names of the modules with these roles; raises AdapterTargetError."""
    names = [name for name, _ in model.named_modules()]
    targets: set[str] = set()
    for role in roles:
        if role not in ROLES:
            raise AdapterTargetError(f"unknown role {role!r}. Known: {', '.join(ROLES)}.")
        modules = (
            _input_embeddings(model)
            if role == "embedding"
            else {name for name in names if _has_suffix(name, _MODULE_SUFFIXES[role])}
        )
        if not modules:
            raise AdapterTargetError(
                f"{type(model).__name__} has no module for the role {role!r}: remove the role"
            )
        targets |= modules
    return sorted(targets)


def add_adapter(model: nn.Module, config: AdapterConfig, seed: int) -> nn.Module:
    """Add a new adapter to a model and freeze all other weights; raises AdapterTargetError.

    PEFT replaces the target modules of `model` by wrapped ones, in place.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT warns that merging into tied embeddings changes the head as well, and transformers
        # warns of a property that PEFT reads. Neither applies: inputs contain no Yes or No token
        # (and no start token of a decoder), so that the head's answer rows do not change.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return get_peft_model(
            model.requires_grad_(requires_grad=False),
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=find_target_modules(model, config.targets),
            ),
        )


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(f".{name}".endswith(f".{suffix}") for suffix in suffixes)


def _input_embeddings(model: nn.Module) -> set[str]:
    embedding = model.get_input_embeddings()  # type: ignore[operator] # transformers is untyped
    return {name for name, module in model.named_modules() if module is embedding}
