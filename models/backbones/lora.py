"""A LoRA adapter's shape, where it sits in any architecture, and how it is put on a model.

Knows PEFT; nothing of recommenders.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from peft import LoraConfig, get_peft_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

#: Ends of module names per role: Llama, Qwen, SmolLM, Mistral, Gemma and Phi; T5; OPT and BART;
#: GPT-2, GPT-J, GPT-NeoX, BLOOM and Falcon. Where one projection makes query, key and value at
#: once, it is the place of each of these roles, as PEFT itself has it.
_ENDS: Final[Mapping[str, tuple[str, ...]]] = {
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
#: The last is the model's input embedding, whatever its name.
ROLES: Final = (*_ENDS, "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The shape of an adapter: rank, scale (alpha / rank) and the roles of where it sits."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    #: Query and value alone (the paper's choice) moved a quarter as far: see docs/methods.md.
    targets: tuple[str, ...] = ROLES

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Rebuild a shape from JSON values; raises TypeError or KeyError for others."""
        return cls(**{**manifest, "targets": tuple(manifest["targets"])})

    def manifest(self) -> dict[str, Any]:
        """Return the shape as JSON values."""
        return {**asdict(self), "targets": list(self.targets)}


class AdapterTargetError(ValueError):
    """An adapter names a role that does not exist, or that this architecture has no layer for."""


def find_target_modules(model: nn.Module, roles: Sequence[str]) -> list[str]:
    """Return the full names of the modules that have one of these roles.

    Raises AdapterTargetError.
    """
    names = [name for name, _ in model.named_modules()]
    found: set[str] = set()
    for role in roles:
        if role not in ROLES:
            raise AdapterTargetError(f"no role {role!r}; there are: {', '.join(ROLES)}")
        here = _embeddings(model) if role == "embedding" else _ending(names, _ENDS[role])
        if not here:
            raise AdapterTargetError(
                f"{type(model).__name__} has no layer known as {role!r}: leave the role out"
            )
        found |= here
    return sorted(found)


def add_adapter(model: nn.Module, config: AdapterConfig, seed: int) -> nn.Module:
    """Put a fresh adapter, the only part that trains, on a model; raises AdapterTargetError.

    The model's own layers are exchanged for wrapped ones, in place; its weights are frozen.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Tied embeddings are merged once and the tie holds: no input is a Yes or No token (nor what
        # a decoder starts from), so the head's two rows never move. transformers warns of a
        # property that PEFT itself reads.
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


def _ending(names: Sequence[str], ends: tuple[str, ...]) -> set[str]:
    return {name for name in names if any(f".{name}".endswith(f".{end}") for end in ends)}


def _embeddings(model: nn.Module) -> set[str]:
    embedding = model.get_input_embeddings()  # type: ignore[operator] # transformers is untyped
    return {name for name, module in model.named_modules() if module is embedding}
