"""Score candidates with the compact backbone, in fewer and larger operations than transformers.

For a Llama-type model in float32 whose weights no longer change. The reader saves time, besides
that of Python code between the layers, as follows:

- Tokens are columns of [D, T] matrices, so that RMS norm, RoPE and softmax need no copies.
- The weights of RMS norms and the attention scale are multiplied into the next matrix.
- Suffixes have no padding (`models.inference.columns`).
- The last layer computes keys and values for all tokens, everything else for last tokens only.

Models of other architectures get no reader, and a reader is used only after its logits have been
compared with those of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from models.inference.columns import Columns
from models.inference.shared_prefix import Prefix
from models.prompts.prompt_batch import PromptBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Maximum deviation from the model's logits: absolute, or relative where logits exceed 1.
TOLERANCE: Final = 1e-5
#: Candidates per pass; the activations of more do not fit into the caches of a CPU.
CANDIDATES_PER_PASS: Final = 512
#: Types of the supported modules. A layer that is wrapped by an adapter has another type.
_SUPPORTED_MODULES: Final = frozenset(
    {
        nn.Embedding,
        nn.Linear,
        nn.ModuleList,
        nn.SiLU,
        SiLUActivation,
        LlamaForCausalLM,
        llama.LlamaModel,
        llama.LlamaDecoderLayer,
        llama.LlamaAttention,
        llama.LlamaMLP,
        llama.LlamaRMSNorm,
        llama.LlamaRotaryEmbedding,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """The matrices of a layer, multiplied by the weights of RMS norms and the attention scale.

    `query` [D, D]; `key_value` [2D, D]; `out` [D, D]; `gate_up` [2F, D]; `down` [D, F]; `eps`: of
    the RMS norm before attention, and of the one before the MLP.
    """

    query: torch.Tensor
    key_value: torch.Tensor
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    eps: tuple[float, float]


class CompactReader:
    """Score with a copy of one model's weights. Thread-safe, because nothing is written."""

    #: One request of a hundred candidates keeps a CPU core busy without others.
    batches_requests = False

    @torch.no_grad()
    def __init__(self, model: LlamaForCausalLM, answers: tuple[int, int]) -> None:
        """Copy all weights except the embeddings, which the reader shares with the model."""
        config: Any = model.config
        self._heads: int = config.num_attention_heads
        self._embedding: torch.Tensor = model.get_input_embeddings().weight.detach()
        self._layers = [_layer(layer, self._heads) for layer in model.model.layers]
        norm = model.model.norm
        self._head = model.lm_head.weight.detach()[list(answers)] * norm.weight.detach()
        self._eps: float = norm.variance_epsilon
        self._frequencies = model.model.rotary_emb.inv_freq.float()

    @classmethod
    def verified(
        cls,
        model: nn.Module,
        answers: tuple[int, int],
        golden: Callable[[], PromptBatch],
        reference: Callable[[PromptBatch], torch.Tensor],
    ) -> Self | None:
        """Return a reader of the model's present weights, or None if it cannot be used.

        Usable means: the architecture is supported, and logits of variations of the `golden`
        prompts agree with those of `reference`, which returns [B, 2] logits of whole prompts.
        """
        if not _is_supported(model):
            return None
        reader, prompts = cls(model, answers), golden()
        shortest = int(prompts.lengths.min())
        for shared in (1, shortest // 2, shortest - 1):
            prefix = prompts.tokens[:1, :shared].expand(len(prompts), -1)
            mixed = PromptBatch(tokens=torch.cat([prefix, prompts.tokens[:, shared:]], dim=1))
            expected = reference(mixed)
            tolerance = TOLERANCE * expected.abs().max().clamp_min(1)
            if not (reader.score(mixed, shared) - expected).abs().max() <= tolerance:
                return None
        return reader

    def score(self, prompts: PromptBatch, shared: int) -> torch.Tensor:
        """Return [N, 2] float32 logits of N prompts whose first `shared` columns are the same."""
        prefix = self.encode_prefix(prompts.tokens[0, :shared])
        return torch.cat(self.answer(self.rows(prefix, prompts)))

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> list[Columns]:
        """Return the suffixes of N prompts with this prefix, in parts of CANDIDATES_PER_PASS."""
        suffixes = prompts.columns(len(prefix))
        return [
            Columns.from_suffixes(prefix, suffixes.take(slice(start, start + CANDIDATES_PER_PASS)))
            for start in range(0, len(suffixes), CANDIDATES_PER_PASS)
        ]

    def encode_prefix(self, tokens: torch.Tensor) -> Prefix:
        """Return the key/value cache of tokens [h]."""
        return self.encode_prefixes([tokens])[0]

    @torch.inference_mode()
    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return the key/value caches of several [h] token sequences, computed in one pass."""
        count, width = len(prefixes), max(map(len, prefixes))
        tokens = torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True).flatten()
        cos, sin = self._rope(0, torch.arange(width).repeat(count))
        x, states = self._embed(tokens), []
        for number, layer in enumerate(self._layers):
            normed = _rms_norm(x, layer.eps[0])
            key, value = (layer.key_value @ normed).chunk(2)
            query = _rotate(layer.query @ normed, cos, sin)
            query, key, value = (
                matrix.view(self._heads, -1, count, width).permute(2, 0, 3, 1).contiguous()
                for matrix in (query, _rotate(key, cos, sin), value)
            )
            states.append((key, value))
            if number + 1 < len(self._layers):
                # The causal mask hides the padding, which comes after all tokens.
                attended = functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=1.0
                )
                x = _finish_layer(layer, x, attended.permute(1, 3, 0, 2).reshape(x.shape))
        return [
            Prefix(
                tokens=prefix.clone(),
                states=tuple(
                    (
                        key[row : row + 1, :, : len(prefix)].clone(),
                        value[row : row + 1, :, : len(prefix)].clone(),
                    )
                    for key, value in states
                ),
            )
            for row, prefix in enumerate(prefixes)
        ]

    def answer(self, batch: Sequence[Columns]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No), float32 on the CPU."""
        return [self._answer_row(row) for row in batch]

    @torch.inference_mode()
    def _answer_row(self, row: Columns) -> torch.Tensor:
        cos, sin = self._rope(len(row.prefix), row.positions)
        x = self._embed(row.tokens)
        for number, prefix_state in enumerate(row.prefix.states):
            last = number + 1 == len(self._layers)
            queries = slice(-len(row.order), None) if last else slice(None)
            layer, normed = self._layers[number], _rms_norm(x, self._layers[number].eps[0])
            query = _rotate(layer.query @ normed[:, queries], cos[:, queries], sin[:, queries])
            key, value = (layer.key_value @ normed).chunk(2)
            key = _rotate(key, cos, sin)
            pairs = row.attention_pairs(last=last)
            attended = self._attend((query, key, value), prefix_state, pairs, len(row.ends))
            x = _finish_layer(layer, x[:, queries], attended)
        logits = torch.empty(len(row.order), 2)
        logits[row.order] = (self._head @ _rms_norm(x, self._eps)).t()
        return logits

    def _attend(
        self,
        suffix_states: tuple[torch.Tensor, ...],
        prefix_state: tuple[torch.Tensor, torch.Tensor],
        pairs: Sequence[tuple[int, slice, slice]],
        run_count: int,
    ) -> torch.Tensor:
        """Return the attention output [D, M] of M queries over the prefix and their own suffix.

        `suffix_states`: query [D, M], key and value [D, T]. `prefix_state`: the prefix's keys and
        values. `pairs`: `Columns.attention_pairs`. `run_count`: the number of suffix positions.
        """
        query, key, value = (
            matrix.view(self._heads, -1, matrix.shape[1]) for matrix in suffix_states
        )
        prefix_keys, prefix_values = prefix_state[0][0], prefix_state[1][0]
        prefix_length = prefix_keys.shape[1]
        scores = query.new_full(
            (self._heads, prefix_length + run_count, query.shape[2]), -torch.inf
        )
        torch.bmm(prefix_keys, query, out=scores[:, :prefix_length])
        for run, queries, keys in pairs:
            torch.sum(
                query[..., queries] * key[..., keys],
                1,
                out=scores[:, prefix_length + run, queries],
            )
        weights = scores.softmax(1)
        attended = prefix_values.mT @ weights[:, :prefix_length]
        for run, queries, keys in pairs:
            attended[..., queries].addcmul_(
                weights[:, None, prefix_length + run, queries], value[..., keys]
            )
        return attended.view(-1, query.shape[2])

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the input embeddings [D, T] of tokens [T]."""
        return self._embedding.index_select(0, tokens).t().contiguous()

    def _rope(self, start: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines [head size / 2, T] of the RoPE angles at `start` + positions."""
        all_positions = torch.arange(start, start + int(positions.max()) + 1)
        angles = self._frequencies[:, None] * all_positions
        return angles.cos().index_select(1, positions), angles.sin().index_select(1, positions)


def _layer(layer: Any, heads: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    head_size = attention.q_proj.weight.shape[0] // heads
    key_value = torch.cat([attention.k_proj.weight, attention.v_proj.weight])
    attention_norm, mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return _Layer(
        query=attention.q_proj.weight * attention_norm.weight * head_size**-0.5,
        key_value=key_value * attention_norm.weight,
        out=attention.o_proj.weight.detach(),
        gate_up=gate_up * mlp_norm.weight,
        down=mlp.down_proj.weight.detach(),
        eps=(attention_norm.variance_epsilon, mlp_norm.variance_epsilon),
    )


def _finish_layer(layer: _Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Return a layer's output [D, M] from its input and its attention output, both [D, M]."""
    x = torch.addmm(x, layer.out, attended)
    gate, up = (layer.gate_up @ _rms_norm(x, layer.eps[1])).chunk(2)
    return x.addmm_(layer.down, functional.silu(gate).mul_(up))


def _rms_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide each column of [D, T] by its root mean square; the weight is in the next matrix."""
    return x * x.square().mean(0).add_(eps).rsqrt_()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to [D, T], pairing the halves of each head as Llama does."""
    halves = x.view(-1, 2, *cos.shape)
    rotated = halves * cos
    rotated[:, 0].addcmul_(halves[:, 1], sin, value=-1)
    rotated[:, 1].addcmul_(halves[:, 0], sin)
    return rotated.view(x.shape)


def _is_supported(model: nn.Module) -> TypeGuard[LlamaForCausalLM]:
    if type(model) is not LlamaForCausalLM:
        return False
    config: Any = model.config
    parameters = list(model.parameters())
    return (
        {(tensor.dtype, tensor.device.type) for tensor in parameters} == {(torch.float32, "cpu")}
        and _SUPPORTED_MODULES.issuperset(map(type, model.modules()))
        and config.attention_dropout == 0
        and config.hidden_act == "silu"
        and config.num_key_value_heads == config.num_attention_heads
        and config.head_dim * config.num_attention_heads == config.hidden_size
        and not (config.attention_bias or config.mlp_bias)
        and config.rope_parameters.get("rope_type") == "default"
    )
