"""Define the backbone interface and build the compact backbones with their initial weights."""

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
    """The backbone is not known."""


class BackboneConfig(Protocol):
    """Settings of a backbone, as the manifest of a release stores them."""

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights."""

    @property
    def adapter(self) -> AdapterConfig | None:
        """Return the shape of the adapter that is trained; None where all weights are trained."""

    def seeded(self, seed: int) -> Self:
        """Return the same settings with another seed."""

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values, `kind` among them."""


@dataclass(frozen=True, kw_only=True)
class _CompactSettings:
    """Settings of a small model with one token per catalog item."""

    kind: ClassVar[str]
    adapter: ClassVar[None] = None

    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 128
    init_std: float = 0.02
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same settings with another seed."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class CompactConfig(_CompactSettings):
    """A small Llama-type causal language model."""

    kind = "compact"


@dataclass(frozen=True, kw_only=True)
class CompactT5Config(_CompactSettings):
    """A small T5-type encoder-decoder; `layers` are those of the encoder.

    The decoder reads a single token and needs fewer. `init_std` replaces T5's default standard
    deviation of embeddings (1), against which the output of the layers would be negligible at this
    hidden size.
    """

    kind = "compact-t5"

    decoder_layers: int = 1


def build_compact(vocabulary: Vocabulary, config: CompactConfig) -> LlamaForCausalLM:
    """Build the model; its initial weights depend on the config's seed alone."""
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
    """Build the model; its initial weights depend on the config's seed alone.

    Encoder, decoder and head share one embedding. The decoder starts from PAD, which no prompt
    contains, so that only the decoder uses the rows of PAD and of the answers.
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
                # For T5 this only switches off the scaling of outputs; the weights stay tied.
                tie_word_embeddings=False,
            )
        )
        with torch.no_grad():
            model.shared.weight.normal_(std=config.init_std)
        return model
