"""Makes the language models that a recommender stands on. Knows transformers; nothing of users."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.vocabulary import Vocabulary


class UnknownBackboneError(ValueError):
    """There is no such backbone. Known: compact."""


class BackboneConfig(Protocol):
    """What every kind of backbone says of itself; `seed` is that of its initial weights."""

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights."""

    def seeded(self, seed: int) -> Self:
        """Return the same backbone with other initial weights."""

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values, `kind` among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactConfig:
    """A small Llama-type causal LM whose vocabulary is the catalogue."""

    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 128
    init_std: float = 0.02
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same backbone with other initial weights."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"kind": "compact", **asdict(self)}


def compact_from_manifest(manifest: Mapping[str, Any]) -> CompactConfig:
    """Rebuild a CompactConfig; raises UnknownBackboneError for any other kind."""
    if manifest.get("kind") != "compact":
        raise UnknownBackboneError(UnknownBackboneError.__doc__)
    return CompactConfig(**{key: value for key, value in manifest.items() if key != "kind"})


def build_compact(vocabulary: Vocabulary, config: CompactConfig) -> LlamaForCausalLM:
    """Build the backbone with its initial weights, which follow from the config's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary.size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                intermediate_size=config.intermediate_size,
                initializer_range=config.init_std,
                max_position_embeddings=128,
                tie_word_embeddings=True,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=None,
            )
        )
