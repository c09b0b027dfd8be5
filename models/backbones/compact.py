"""Makes the language models that a recommender stands on. Knows transformers; nothing of users."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from models.prompts.vocabulary import PAD

if TYPE_CHECKING:
    from models.backbones.lora import AdapterConfig
    from models.prompts.vocabulary import Vocabulary


class UnknownBackboneError(ValueError):
    """There is no such backbone."""


class BackboneConfig(Protocol):
    """What every kind of backbone says of itself; `seed` is that of its initial weights."""

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights."""

    @property
    def adapter(self) -> AdapterConfig | None:
        """Return the shape of the adapter that all is learned in; None where all weights learn."""

    def seeded(self, seed: int) -> Self:
        """Return the same backbone with other initial weights."""

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values, `kind` among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactConfig:
    """A small Llama-type causal LM whose vocabulary is the catalogue."""

    adapter: ClassVar[None] = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactT5Config:
    """A small T5-type encoder-decoder on the compact prompt and vocabulary.

    T5's own deviation of embeddings (1) drowns what its layers add to rows of a few dozen numbers.
    """

    adapter: ClassVar[None] = None

    hidden_size: int = 64
    #: Of the encoder and of the decoder, which reads one token only.
    layers: int = 2
    decoder_layers: int = 1
    heads: int = 4
    intermediate_size: int = 128
    init_std: float = 0.02
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same backbone with other initial weights."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"kind": "compact-t5", **asdict(self)}


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


def build_compact_t5(vocabulary: Vocabulary, config: CompactT5Config) -> T5ForConditionalGeneration:
    """Build the backbone with its initial weights, which follow from the config's seed alone.

    The decoder starts from PAD, which no prompt contains: its row, like those of the answers, is
    the decoder's alone, although encoder, decoder and head share one embedding.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocabulary.size,
                d_model=config.hidden_size,
                d_kv=config.hidden_size // config.heads,
                d_ff=config.intermediate_size,
                num_layers=config.layers,
                num_decoder_layers=config.decoder_layers,
                num_heads=config.heads,
                relative_attention_max_distance=64,
                dropout_rate=0.0,
                feed_forward_proj="gated-silu",
                pad_token_id=PAD,
                decoder_start_token_id=PAD,
                eos_token_id=None,
                # In a T5Config this says that outputs are not scaled; weights are tied anyway.
                tie_word_embeddings=False,
            )
        )
        with torch.no_grad():
            model.shared.weight.normal_(std=config.init_std)
        return model
